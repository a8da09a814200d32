"""The backend of any diffusers pipeline, on tiny ones of different structure: UNet, transformer, distilled."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
import numpy as np
import pytest
import torch

from services.worker.backends.base import GenerationCancelledError, InvalidOutputError, InvalidParameterError
from services.worker.backends.pipeline.backend import DiffusersBackend
from services.worker.backends.pipeline.placement import TIERS, stays
from services.worker.backends.workbench import Workbench
from services.worker.confine import ConfinementPlan, child_folders
from shared.domain.errors import ConfigurationError
from tests.support.generation import Progress, generation_request
from tests.support.runner import UNLIMITED, RealRunner

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

NAMES = ("stable_diffusion", "pixart", "flux")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def backends(pipelines: dict[str, Path]) -> dict[str, DiffusersBackend]:
    loaded = {}
    for name, folder in pipelines.items():
        loaded[name] = DiffusersBackend()
        loaded[name].load(folder, "cpu", "resident")
    return loaded


@pytest.fixture(scope="module", params=NAMES)
def backend(request: pytest.FixtureRequest, backends: dict[str, DiffusersBackend]) -> DiffusersBackend:
    return backends[request.param]


@pytest.fixture
def own(pipelines: dict[str, Path], tmp_path: Path) -> Path:
    """A folder that the test may change."""
    return Path(shutil.copytree(pipelines["stable_diffusion"], tmp_path / "own"))


def load(folder: Path, tier: str = "resident") -> DiffusersBackend:
    backend = DiffusersBackend()
    backend.load(folder, "cpu", tier)
    return backend


def asked(**changes: Any) -> Any:  # noqa: ANN401 - any field
    return generation_request(Path(), **{"prompt": "a cat", "prompt_format": "text", "guidance": 3.5, **changes})


def pixels(backend: DiffusersBackend, *requests: Any) -> list[NDArray[np.uint8]]:  # noqa: ANN401 - requests
    progress = Progress()
    generated: Any = backend.generate(list(requests), progress.report, progress.cancelled)
    return [picture for pictures in generated.sets for picture in pictures.pixels]


def largest_difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.usefixtures("socket_disabled")
def test_a_pipeline_loads_without_a_network_and_says_what_it_is(pipelines: dict[str, Path]) -> None:
    receipt = DiffusersBackend().load(pipelines["flux"], "cpu", "resident").receipt
    assert receipt["pipeline"] == "FluxPipeline"
    assert receipt["scheduler"] == "FlowMatchEulerDiscreteScheduler"
    assert receipt["dtype"] == "float32"


def test_a_repeat_is_bit_identical_whatever_came_between(backend: DiffusersBackend) -> None:
    (first,) = pixels(backend, asked())
    pixels(backend, asked(seeds=(1, 2), steps=5, width=32))
    (again,) = pixels(backend, asked())
    assert first.shape == (48, 64, 3)
    assert np.array_equal(first, again)


def test_the_rows_of_a_batch_are_the_single_pictures_within_one_level(backend: DiffusersBackend) -> None:
    one, other = asked(seeds=(7, 8)), asked(seeds=(9,), prompt="a red dog, long prompt")
    together = pixels(backend, one, other)
    alone = [
        *pixels(backend, asked(seeds=(7,))),
        *pixels(backend, asked(seeds=(8,))),
        *pixels(backend, other),
    ]
    assert [largest_difference(a, b) <= 1 for a, b in zip(together, alone, strict=True)] == [True] * 3
    assert largest_difference(together[0], together[1]) > 1
    assert largest_difference(together[0], together[2]) > 1


def test_progress_is_told_step_by_step(backend: DiffusersBackend) -> None:
    progress = Progress()
    backend.generate([asked(seeds=(1, 2))], progress.report, progress.cancelled)
    steps = [("denoising", step, 3) for step in (1, 2, 3)]
    assert progress.seen == [("encoding", 0, 0), *steps, ("decoding", 0, 0)]


@pytest.mark.parametrize("after", [0, 1])
def test_a_cancelled_call_ends_at_the_next_step_and_leaves_nothing(backend: DiffusersBackend, after: int) -> None:
    (before,) = pixels(backend, asked())
    progress = Progress(cancel_after=after)
    with pytest.raises(GenerationCancelledError):
        backend.generate([asked(steps=20)], progress.report, progress.cancelled)
    assert len(progress.seen) == 1 + after
    assert np.array_equal(pixels(backend, asked())[0], before)


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_is_the_same_at_every_tier(pipelines: dict[str, Path], name: str) -> None:
    backend = load(pipelines[name])
    # Small enough not to be decoded in tiles.
    request = asked(width=32, height=32)
    (expected,) = pixels(backend, request)
    for tier in (*TIERS, *reversed(TIERS)):
        backend.set_tier(tier)
        assert np.array_equal(pixels(backend, request)[0], expected), tier


@pytest.mark.parametrize("tier", TIERS)
def test_what_a_task_leaves_on_the_model_is_gone(pipelines: dict[str, Path], tier: str) -> None:
    backend = DiffusersBackend()
    bench = Workbench(backend, pipelines["stable_diffusion"], "cpu")
    bench.load(tier)

    def made(report: Any) -> bytes:  # noqa: ANN401 - any report
        try:
            worked = bench.compute([asked(width=32, height=32)], tier, report, Progress().cancelled)
        finally:
            bench.tidy()
        (pictures,) = worked.generated.sets  # type: ignore[attr-defined] # this backend's pictures
        return bytes(pictures.pixels[0].tobytes())

    def careless(phase: str, *_: object) -> None:
        pipeline = backend._loaded().pipeline
        if phase == "decoding":
            pipeline.leaked = True
            pipeline.scheduler.register_to_config(prediction_type="sample")
            pipeline.unet.forward = None
            if stays(tier):
                pipeline.vae.post_quant_conv.bias.add_(1.0)

    expected = made(Progress().report)
    made(careless)
    assert made(Progress().report) == expected
    assert not hasattr(backend._loaded().pipeline, "leaked")


def test_loading_a_part_anew_gives_the_same_model(pipelines: dict[str, Path]) -> None:
    backend = load(pipelines["stable_diffusion"])
    (expected,) = pixels(backend, asked())
    kept = backend._loaded().pipeline.text_encoder
    with torch.no_grad():
        backend._loaded().pipeline.unet.conv_in.weight.mul_(3.0)
    assert not np.array_equal(pixels(backend, asked())[0], expected)
    guarded = backend.guarded()
    assert guarded.each_time == {"unet", "scheduler"}
    assert set(guarded.parts) == {"unet", "vae", "text_encoder", "scheduler"}
    backend.reload(guarded.each_time)
    assert backend._loaded().pipeline.text_encoder is kept
    assert np.array_equal(pixels(backend, asked())[0], expected)


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"width": 72}, "width 72 is not a multiple of 16"),
        ({"num_frames": 5}, "num_frames 5"),
        ({"seeds": (-1,)}, "seeds"),
        ({"options": {"sampler": "ddim"}}, "option sampler"),
        ({"prompt": "~" * 600}, r"the prompt has 60\d tokens; the model reads 512"),
    ],
)
def test_what_no_pipeline_can_do_is_refused_by_name(
    backend: DiffusersBackend, changes: dict[str, object], shown: str
) -> None:
    progress = Progress()
    with pytest.raises(InvalidParameterError, match=shown):
        backend.generate([asked(**changes)], progress.report, progress.cancelled)
    assert progress.seen == []


def test_requests_of_two_shapes_are_no_batch(backend: DiffusersBackend) -> None:
    with pytest.raises(InvalidParameterError, match="one batch"):
        pixels(backend, asked(), asked(guidance=2.0))
    assert pixels(backend) == []


def test_a_distilled_pipeline_takes_no_negative_prompt(backends: dict[str, DiffusersBackend]) -> None:
    with pytest.raises(InvalidParameterError, match="no negative prompt"):
        pixels(backends["flux"], asked(negative_prompt="blurry"))
    # Its guidance is an input of the network, and changes the picture.
    weak, strong = (pixels(backends["flux"], asked(guidance=value))[0] for value in (1.0, 4.0))
    assert largest_difference(weak, strong) > 0


def test_true_guidance_is_what_a_card_may_ask_of_a_pipeline_that_has_both(
    pipelines: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(pipelines["flux"], tmp_path / "flux"))
    replace_in(folder / "atelier.toml", "negative_prompt = false", "")
    replace_in(folder / "atelier.toml", "[options]", '[options]\nguidance = "true_cfg_scale"')
    backend = load(folder)
    plain, negative = (pixels(backend, asked(negative_prompt=text))[0] for text in ("", "blurry"))
    assert largest_difference(plain, negative) > 0


@pytest.mark.parametrize(
    ("name", "old", "new", "shown"),
    [
        ("flux", "negative_prompt = false", "", r"takes no negative prompt: say \[model\] negative_prompt = false"),
        ("flux", "guidance = 3.5", 'guidance = 3.5\nnegative_prompt = "blurry"', "takes no negative prompt"),
        ("pixart", 'kind = "image"', 'kind = "video"', "it makes images"),
        ("pixart", "side_multiple = 16", "side_multiple = 4", "side_multiple 4 is no multiple of its 8"),
        ("pixart", "max_prompt_tokens = 512", "max_prompt_tokens = 900", "900 is above the 512"),
        ("pixart", "[options]", "[options.arguments]\nclip_skip = 1", "clip_skip is no argument"),
        ("pixart", "[options]", "[options.arguments]\nwidth = 1", "width is no argument of its own"),
        ("pixart", "[options]", '[options]\nguidance = "true_cfg_scale"', "true_cfg_scale.* is no argument"),
        ("pixart", "[options]", '[options]\ndtype = "int8"', "options.dtype"),
        ("pixart", "[options]", "[options]\nsteps = 3", "options.steps"),
        ("pixart", "max_side = 128", "max_side = 0", "limits.max_side"),
    ],
)
def test_a_card_that_promises_what_the_pipeline_has_not_is_refused(
    pipelines: dict[str, Path], tmp_path: Path, name: str, old: str, new: str, shown: str
) -> None:
    folder = Path(shutil.copytree(pipelines[name], tmp_path / name))
    replace_in(folder / "atelier.toml", old, new)
    with pytest.raises(ConfigurationError, match=shown):
        load(folder)


def test_fixed_arguments_of_the_card_reach_the_pipeline(own: Path) -> None:
    (plain,) = pixels(load(own), asked())
    replace_in(own / "atelier.toml", "[options]", "[options.arguments]\nguidance_rescale = 0.7\n")
    assert largest_difference(pixels(load(own), asked())[0], plain) > 0


def test_what_a_pipeline_refuses_itself_is_a_wrong_parameter(
    backends: dict[str, DiffusersBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = backends["stable_diffusion"]

    def refuses(*_: object, **__: object) -> None:
        message = "no such thing"
        raise ValueError(message)

    monkeypatch.setattr(type(backend._loaded().pipeline), "check_inputs", refuses)
    with pytest.raises(InvalidParameterError, match="no such thing"):
        pixels(backend, asked())


def test_values_that_are_not_finite_are_an_error_and_no_picture(
    backends: dict[str, DiffusersBackend], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = backends["stable_diffusion"]
    pipeline = backend._loaded().pipeline

    def breaks(latents: torch.Tensor, **_: object) -> tuple[torch.Tensor]:
        return (torch.full((1, 3, latents.shape[2] * 8, latents.shape[3] * 8), float("nan")),)

    monkeypatch.setattr(pipeline.vae, "decode", breaks)
    with pytest.raises(InvalidOutputError, match="not finite"):
        pixels(backend, asked())


def test_a_scheduler_of_more_steps_than_asked_tells_them_all(own: Path) -> None:
    backend = load(own)
    pipeline = backend._loaded().pipeline
    kind: Any = diffusers.PNDMScheduler
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config, skip_prk_steps=True)
    progress = Progress()
    backend.generate([asked(steps=4)], progress.report, progress.cancelled)
    assert progress.seen[1:] == [*(("denoising", step, 5) for step in range(1, 6)), ("decoding", 0, 0)]


def test_a_confined_process_serves_it(pipelines: dict[str, Path], tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    real = RealRunner(work)
    shutil.copytree(pipelines["flux"], real.model, dirs_exist_ok=True)
    real.confined = ConfinementPlan(work=work, model_dir=real.model, device="cpu", backend="diffusers")
    home = work / ".child"
    home.mkdir()
    real.environment = child_folders(home)
    supervisor = real.supervise("diffusers", load_base=300.0)
    try:
        supervisor.ensure_ready()
        job, folder = real.begin(prompt="a cat", guidance=2.0)
        supervisor.wait_computed(job, UNLIMITED)
        (artifact,) = supervisor.wait_encoded(job).artifacts
        assert (folder / artifact.name).stat().st_size > 0
        assert [word.phase for word in real.progress] == ["encoding", *["denoising"] * 3, "decoding"]
    finally:
        real.close()
