"""The memory tiers of NewBie: every one works on the CPU, makes the same picture, and leaves a sound model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from services.worker.backends.base import InvalidParameterError, OutOfMemoryError
from services.worker.backends.newbie.backend import NewbieBackend
from services.worker.backends.newbie.placement import TIERS
from services.worker.backends.newbie.transformer import NewbieTransformer2DModel
from services.worker.backends.workbench import Workbench
from shared.domain.errors import BackendError, ConfigurationError
from tests.support.generation import Progress, generation_request

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Desk:
    def __init__(self, folder: Path, tier: str = "resident") -> None:
        self.backend = NewbieBackend()
        self.bench = Workbench(self.backend, folder, "cpu")
        self.bench.load(tier)
        self.out = folder

    def make(self, tier: str = "", **changes: Any) -> tuple[str, bytes]:  # noqa: ANN401 - any field
        """The tier that made it, and a picture that is too small to be decoded in tiles."""
        progress = Progress()
        request = generation_request(self.out, **{"width": 32, "height": 32, "steps": 2, **changes})
        try:
            worked = self.bench.compute([request], tier, progress.report, progress.cancelled)
        finally:
            self.bench.tidy()
        (pictures,) = worked.generated.sets  # type: ignore[attr-defined] # this backend's pictures
        assert pictures.receipt["tier"] == worked.tier
        return worked.tier, bytes(pictures.pixels[0].tobytes())


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def desk(tiny_newbie: Path) -> Desk:
    return Desk(tiny_newbie)


@pytest.mark.parametrize("before", TIERS)
@pytest.mark.parametrize("tier", TIERS)
def test_a_picture_is_the_same_at_every_tier_whichever_came_before(desk: Desk, before: str, tier: str) -> None:
    _, expected = desk.make("resident")
    desk.make(before)
    assert desk.make(tier) == (tier, expected)
    assert desk.make(tier) == (tier, expected)


@pytest.mark.parametrize("tier", TIERS)
def test_a_model_loaded_at_a_tier_works_at_it(desk: Desk, tiny_newbie: Path, tier: str) -> None:
    assert Desk(tiny_newbie, tier).make() == (tier, desk.make()[1])


def test_only_large_pictures_differ_where_they_are_decoded_in_tiles(desk: Desk) -> None:
    assert desk.make("resident", width=128)[1] != desk.make("tiled", width=128)[1]
    assert desk.make("tiled", width=128)[1] == desk.make("sequential", width=128)[1]


def fails_below(monkeypatch: pytest.MonkeyPatch, desk: Desk, *tiers: str) -> None:
    forward = NewbieTransformer2DModel.forward

    def sometimes(self: NewbieTransformer2DModel, *inputs: Any) -> Any:  # noqa: ANN401 - stands for the forward
        if desk.bench.tier in tiers:
            message = "CUDA error: out of memory"
            raise RuntimeError(message)
        return forward(self, *inputs)

    monkeypatch.setattr(NewbieTransformer2DModel, "forward", sometimes)


@pytest.mark.parametrize(("first", "second"), [("resident", "tiled"), ("tiled", "offload"), ("offload", "sequential")])
def test_what_does_not_fit_is_made_one_tier_down(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, first: str, second: str
) -> None:
    _, expected = desk.make()
    fails_below(monkeypatch, desk, first)
    assert desk.make(first) == (second, expected)
    monkeypatch.undo()
    assert desk.make() == ("resident", expected)


def test_what_fits_nowhere_is_an_error_that_leaves_a_sound_model(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    _, expected = desk.make()
    fails_below(monkeypatch, desk, *TIERS)
    with pytest.raises(OutOfMemoryError):
        desk.make("offload")
    assert desk.bench.tier == "sequential"
    monkeypatch.undo()
    assert desk.make() == ("resident", expected)


def test_a_user_s_own_error_climbs_nothing_and_reloads_nothing(desk: Desk) -> None:
    desk.make()
    before = desk.backend.guarded().parts
    with pytest.raises(InvalidParameterError):
        desk.make(width=40)
    assert desk.bench.tier == "resident"
    assert desk.backend.guarded().parts == before


def card(folder: Path, line: str) -> None:
    with (folder / "atelier.toml").open("a", encoding="utf-8") as file:
        file.write(f"\n[options]\n{line}\n")


def test_policy_reload_loads_the_transformer_anew_and_keeps_the_rest(own_newbie: Path, desk: Desk) -> None:
    card(own_newbie, 'isolation = "reload"')
    reloading = Desk(own_newbie)
    before = dict(reloading.backend.guarded().parts)
    assert reloading.make()[1] == desk.make()[1]
    after = reloading.backend.guarded().parts
    assert [name for name in before if after[name] is not before[name]] == ["transformer"]
    assert reloading.make()[1] == desk.make()[1]


def test_without_a_policy_a_clean_model_stays(desk: Desk) -> None:
    before = dict(desk.backend.guarded().parts)
    desk.make()
    after = desk.backend.guarded().parts
    assert [name for name in before if after[name] is not before[name]] == []


@pytest.mark.parametrize("line", ['isolation = "perhaps"', 'float32_matmul_precision = "low"'])
def test_an_option_of_the_card_that_is_wrong_is_named(own_newbie: Path, line: str) -> None:
    card(own_newbie, line)
    with pytest.raises(ConfigurationError, match=line.partition(" ")[0]):
        NewbieBackend().load(own_newbie, "cpu", "resident")


def test_the_precision_of_the_card_is_set(own_newbie: Path) -> None:
    before = torch.get_float32_matmul_precision()
    card(own_newbie, 'float32_matmul_precision = "high"')
    try:
        NewbieBackend().load(own_newbie, "cpu", "resident")
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_a_tier_change_that_fails_half_way_ends_in_a_whole_model(
    tiny_newbie: Path, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Desk(tiny_newbie)

    def breaks(*_: Any, **__: Any) -> None:  # noqa: ANN401 - stands for diffusers' function
        message = "the hooks are broken"
        raise BackendError(message)

    monkeypatch.setattr("services.worker.backends.newbie.placement.apply_group_offloading", breaks)
    with pytest.raises(BackendError, match="hooks"):
        own.make("sequential")
    monkeypatch.undo()
    assert own.make() == ("resident", desk.make()[1])
