"""The memory tiers of EasyAnimate: every one works on the CPU, makes the same video, and leaves a sound model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from diffusers import EasyAnimateTransformer3DModel
from PIL import Image

from services.worker.backends.base import InvalidParameterError, OutOfMemoryError
from services.worker.backends.easyanimate.backend import EasyAnimateBackend
from services.worker.backends.easyanimate.placement import TIERS
from services.worker.backends.workbench import Workbench
from shared.domain.errors import BackendError, ConfigurationError
from tests.support.generation import Progress, generation_request

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

Made = tuple[str, "NDArray[np.uint8]"]


class Desk:
    def __init__(self, folder: Path, tier: str = "resident") -> None:
        self.backend = EasyAnimateBackend()
        self.bench = Workbench(self.backend, folder, "cpu")
        self.bench.load(tier)
        self.out = folder

    def make(self, tier: str = "", **changes: Any) -> Made:  # noqa: ANN401 - any field
        """The tier that made it, and the frames of a video that is too small to be decoded in tiles."""
        progress = Progress()
        fields = {"width": 32, "height": 32, "num_frames": 5, "steps": 2, **changes}
        try:
            worked = self.bench.compute(
                [generation_request(self.out, **fields)], tier, progress.report, progress.cancelled
            )
        finally:
            self.bench.tidy()
        (videos,) = worked.generated.sets  # type: ignore[attr-defined] # this backend's videos
        assert videos.receipt["tier"] == worked.tier
        return worked.tier, videos.videos[0]


def same(first: Made, second: Made) -> bool:
    return first[0] == second[0] and np.array_equal(first[1], second[1])


@pytest.fixture(scope="module")
def desk(tiny_easyanimate: Path) -> Desk:
    return Desk(tiny_easyanimate)


@pytest.mark.parametrize("before", TIERS)
@pytest.mark.parametrize("tier", TIERS)
def test_a_video_is_the_same_at_every_tier_whichever_came_before(desk: Desk, before: str, tier: str) -> None:
    _, expected = desk.make("resident")
    desk.make(before)
    assert same(desk.make(tier), (tier, expected))
    assert same(desk.make(tier), (tier, expected))


@pytest.mark.parametrize("tier", TIERS)
def test_a_model_loaded_at_a_tier_works_at_it(desk: Desk, tiny_easyanimate: Path, tier: str) -> None:
    assert same(Desk(tiny_easyanimate, tier).make(), (tier, desk.make()[1]))


@pytest.mark.parametrize("tier", TIERS)
def test_a_video_of_a_picture_is_the_same_at_every_tier(tiny_easyanimate_inp: Path, tmp_path: Path, tier: str) -> None:
    Image.new("RGB", (40, 40), (200, 30, 30)).save(tmp_path / "image.png")
    resident = Desk(tiny_easyanimate_inp).make(image=tmp_path / "image.png")[1]
    assert same(Desk(tiny_easyanimate_inp, tier).make(image=tmp_path / "image.png"), (tier, resident))


def test_only_large_videos_differ_where_they_are_decoded_in_tiles(desk: Desk) -> None:
    large = {"width": 576, "num_frames": 1, "steps": 1}
    resident, tiled = desk.make("resident", **large)[1], desk.make("tiled", **large)[1]
    assert not np.array_equal(resident, tiled)
    # Of 255; the norms of a tile are its own, and with random weights it is about 8.
    assert np.abs(resident.astype(int) - tiled).mean() < 12
    assert np.array_equal(tiled, desk.make("sequential", **large)[1])


def fails_below(monkeypatch: pytest.MonkeyPatch, desk: Desk, *tiers: str) -> None:
    forward = EasyAnimateTransformer3DModel.forward

    def sometimes(self: EasyAnimateTransformer3DModel, *inputs: Any, **more: Any) -> Any:  # noqa: ANN401 - the forward
        if desk.bench.tier in tiers:
            message = "CUDA error: out of memory"
            raise RuntimeError(message)
        return forward(self, *inputs, **more)

    monkeypatch.setattr(EasyAnimateTransformer3DModel, "forward", sometimes)


@pytest.mark.parametrize(("first", "second"), [("resident", "tiled"), ("tiled", "offload"), ("offload", "sequential")])
def test_what_does_not_fit_is_made_one_tier_down(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, first: str, second: str
) -> None:
    _, expected = desk.make()
    fails_below(monkeypatch, desk, first)
    assert same(desk.make(first), (second, expected))
    monkeypatch.undo()
    assert same(desk.make(), ("resident", expected))


def test_what_fits_nowhere_is_an_error_that_leaves_a_sound_model(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    _, expected = desk.make()
    fails_below(monkeypatch, desk, *TIERS)
    with pytest.raises(OutOfMemoryError):
        desk.make("offload")
    assert desk.bench.tier == "sequential"
    monkeypatch.undo()
    assert same(desk.make(), ("resident", expected))


def test_a_tier_change_that_fails_half_way_ends_in_a_whole_model(
    tiny_easyanimate: Path, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Desk(tiny_easyanimate)

    def breaks(*_: Any, **__: Any) -> None:  # noqa: ANN401 - stands for diffusers' function
        message = "the hooks are broken"
        raise BackendError(message)

    monkeypatch.setattr("services.worker.backends.networks.offload.apply_group_offloading", breaks)
    with pytest.raises(BackendError, match="hooks"):
        own.make("sequential")
    monkeypatch.undo()
    assert same(own.make(), ("resident", desk.make()[1]))


def test_a_user_s_own_error_and_a_clean_task_reload_nothing(desk: Desk) -> None:
    desk.make()
    before = dict(desk.backend.guarded().parts)
    with pytest.raises(InvalidParameterError):
        desk.make(num_frames=6)
    desk.make()
    after = desk.backend.guarded().parts
    assert [name for name in before if after[name] is not before[name]] == []
    assert desk.bench.tier == "resident"


def card(folder: Path, line: str) -> None:
    path = folder / "atelier.toml"
    path.write_text(path.read_text(encoding="utf-8").replace("fps = 8", line), encoding="utf-8")


def test_policy_reload_loads_the_transformer_anew_and_keeps_the_rest(own_easyanimate: Path, desk: Desk) -> None:
    card(own_easyanimate, 'isolation = "reload"')
    reloading = Desk(own_easyanimate)
    before = dict(reloading.backend.guarded().parts)
    assert same(reloading.make(), desk.make())
    after = reloading.backend.guarded().parts
    assert [name for name in before if after[name] is not before[name]] == ["transformer"]
    assert same(reloading.make(), desk.make())


def test_a_weight_that_a_task_changed_is_loaded_anew(own_easyanimate: Path, desk: Desk) -> None:
    own = Desk(own_easyanimate)
    vae: Any = own.backend.guarded().parts["vae"]
    progress = Progress()

    def spoil(phase: str, step: int = 0, steps: int = 0, sketch: object = None) -> None:
        del step, steps, sketch
        if phase == "decoding":
            vae.post_quant_conv.weight.data.zero_()

    own.bench.compute([generation_request(own.out, num_frames=5)], "", spoil, progress.cancelled)
    own.bench.tidy()
    assert own.backend.guarded().parts["vae"] is not vae
    assert same(own.make(), desk.make())


@pytest.mark.parametrize(
    "line", ['isolation = "perhaps"', 'float32_matmul_precision = "low"', "fps = 0", 'fps = "8"', "fps = true"]
)
def test_an_option_of_the_card_that_is_wrong_is_named(own_easyanimate: Path, line: str) -> None:
    card(own_easyanimate, line)
    with pytest.raises(ConfigurationError, match=line.partition(" ")[0]):
        EasyAnimateBackend().load(own_easyanimate, "cpu", "resident")


def test_the_rate_of_the_card_is_the_video_s(own_easyanimate: Path, tmp_path: Path) -> None:
    card(own_easyanimate, "fps = 12.5")
    backend, progress = EasyAnimateBackend(), Progress()
    backend.load(own_easyanimate, "cpu", "resident")
    (encoded,) = backend.generate([generation_request(tmp_path)], progress.report, progress.cancelled).encode()
    assert encoded.artifacts[0].fps == 12.5


def test_an_unknown_tier_is_refused(tiny_easyanimate: Path) -> None:
    with pytest.raises(ConfigurationError, match="resident, tiled, offload, sequential"):
        EasyAnimateBackend().load(tiny_easyanimate, "cpu", "frugal")
