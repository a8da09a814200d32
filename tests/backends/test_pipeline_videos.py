"""The backend of any diffusers pipeline with one that makes videos."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from services.worker.backends.base import POSTER, GenerationCancelledError, InvalidParameterError
from services.worker.backends.pipeline.backend import DiffusersBackend
from services.worker.backends.pipeline.placement import TIERS
from shared.domain.errors import ConfigurationError
from tests.backends import tiny_pipelines
from tests.support.generation import Progress, generation_request

if TYPE_CHECKING:
    from numpy.typing import NDArray


@pytest.fixture(scope="module")
def ltx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipelines.ltx(tmp_path_factory.mktemp("pipelines") / "ltx")


@pytest.fixture(scope="module")
def backend(ltx: Path) -> DiffusersBackend:
    torch.set_num_threads(1)
    loaded = DiffusersBackend()
    loaded.load(ltx, "cpu", "resident")
    return loaded


def asked(folder: Path, **changes: Any) -> Any:  # noqa: ANN401 - any field
    shape = {"prompt": "a cat", "prompt_format": "text", "width": 64, "height": 32, "num_frames": 5}
    return generation_request(folder, **{**shape, **changes})


def videos(backend: DiffusersBackend, *requests: Any) -> list[NDArray[np.uint8]]:  # noqa: ANN401 - requests
    progress = Progress()
    generated: Any = backend.generate(list(requests), progress.report, progress.cancelled)
    return [video for made in generated.sets for video in made.videos]


def test_a_video_and_its_poster_are_written_for_each_seed(backend: DiffusersBackend, tmp_path: Path) -> None:
    progress = Progress()
    (encoded,) = backend.generate([asked(tmp_path, seeds=(1, 2))], progress.report, progress.cancelled).encode()
    told = [(file.name, file.media_type, file.frames, file.fps, file.role) for file in encoded.artifacts]
    assert told[:2] == [("0.mp4", "video/mp4", 5, 8.0, None), ("0.png", "image/png", 1, None, POSTER)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.mp4", "0.png", "1.mp4", "1.png"]
    assert [step for phase, step, _ in progress.seen if phase == "denoising"] == [1, 2, 3]
    assert set(encoded.timings) == {"encode", "denoise", "decode"}


def test_repeats_are_bit_identical_and_rows_are_the_single_videos_within_one_level(
    backend: DiffusersBackend, tmp_path: Path
) -> None:
    first, second = videos(backend, asked(tmp_path, seeds=(1, 2)))
    assert first.shape == (5, 32, 64, 3)
    (alone,), (again,) = videos(backend, asked(tmp_path, seeds=(1,))), videos(backend, asked(tmp_path, seeds=(1,)))
    assert np.array_equal(alone, again)
    assert np.abs(first.astype(int) - alone).max() <= 1
    assert np.abs(first.astype(int) - second).max() > 1


@pytest.mark.parametrize("tier", TIERS)
def test_a_video_is_the_same_at_every_tier(ltx: Path, backend: DiffusersBackend, tmp_path: Path, tier: str) -> None:
    other = DiffusersBackend()
    other.load(ltx, "cpu", tier)
    (expected,), (made,) = videos(backend, asked(tmp_path)), videos(other, asked(tmp_path))
    assert np.array_equal(made, expected)


@pytest.mark.parametrize(("frames", "shown"), [(4, "one more than a multiple of 4"), (13, "not from 1 to 9")])
def test_frames_that_the_decoder_cannot_make_are_refused(
    backend: DiffusersBackend, tmp_path: Path, frames: int, shown: str
) -> None:
    with pytest.raises(InvalidParameterError, match=shown):
        videos(backend, asked(tmp_path, num_frames=frames))


def test_what_only_the_pipeline_knows_is_refused_as_a_parameter(backend: DiffusersBackend, tmp_path: Path) -> None:
    with pytest.raises(InvalidParameterError, match="height 48"):
        videos(backend, asked(tmp_path, height=48))


def test_a_cancelled_video_ends_at_its_next_step(backend: DiffusersBackend, tmp_path: Path) -> None:
    progress = Progress(cancel_after=1)
    with pytest.raises(GenerationCancelledError):
        backend.generate([asked(tmp_path, steps=9)], progress.report, progress.cancelled)
    assert len(progress.seen) == 2


@pytest.mark.parametrize(
    ("old", "new", "shown"),
    [
        ("frame_step = 4", "frame_step = 1", "frame_step 1 is no multiple of its 4"),
        ('kind = "video"', 'kind = "image"', "it makes videos"),
    ],
)
def test_a_card_that_does_not_know_its_frames_is_refused(
    ltx: Path, tmp_path: Path, old: str, new: str, shown: str
) -> None:
    folder = Path(shutil.copytree(ltx, tmp_path / "ltx"))
    text = (folder / "atelier.toml").read_text(encoding="utf-8")
    (folder / "atelier.toml").write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigurationError, match=shown):
        DiffusersBackend().load(folder, "cpu", "resident")
