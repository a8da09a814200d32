"""The port's contract, held by every backend in the registry."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from PIL import Image

from services.worker.backends.base import (
    ArtifactFile,
    Backend,
    GenerationCancelledError,
    InvalidParameterError,
    LoadReport,
)
from services.worker.backends.model_folder import read_card
from services.worker.backends.registry import BACKENDS, create_backend
from shared.domain.errors import BackendError, ConfigurationError
from tests.support.generation import XML_PROMPT, Progress, generation_request
from tests.support.pictures import HTML, picture

if TYPE_CHECKING:
    from PIL.PngImagePlugin import PngImageFile

MODEL_FIXTURES = {
    "diffusers": "tiny_diffusers",
    "easyanimate": "tiny_easyanimate",
    "newbie": "tiny_newbie",
    "simulated": "simulated",
}
VIDEO_BACKENDS = {"easyanimate"}


@pytest.fixture(scope="module", params=sorted(BACKENDS))
def model(request: pytest.FixtureRequest) -> tuple[str, Path]:
    name = str(request.param)
    return name, cast("Path", request.getfixturevalue(MODEL_FIXTURES[name]))


@pytest.fixture(scope="module")
def loaded(model: tuple[str, Path]) -> tuple[Backend, LoadReport]:
    name, folder = model
    backend = create_backend(name)
    return backend, backend.load(folder, "cpu", "resident")


@pytest.fixture(scope="module")
def backend(loaded: tuple[Backend, LoadReport]) -> Backend:
    return loaded[0]


def files(model: tuple[str, Path], *seeds: int) -> list[ArtifactFile]:
    """What is written for these seeds at the default size: a picture each, or a video each with its poster."""
    pictures = [
        ArtifactFile(name=f"{n}.png", media_type="image/png", width=64, height=48, seed=seed)
        for n, seed in enumerate(seeds)
    ]
    if model[0] not in VIDEO_BACKENDS:
        return pictures
    videos = [replace(picture, name=f"{n}.mp4", media_type="video/mp4", fps=8.0) for n, picture in enumerate(pictures)]
    posters = [replace(picture, role="poster") for picture in pictures]
    return [file for pair in zip(videos, posters, strict=True) for file in pair]


def made(backend: Backend, folder: Path, **changes: object) -> list[bytes]:
    folder.mkdir(exist_ok=True)
    progress = Progress()
    request = generation_request(folder, **changes)
    (encoded,) = backend.generate([request], progress.report, progress.cancelled).encode()
    return [(folder / artifact.name).read_bytes() for artifact in encoded.artifacts]


def test_load_reports_what_it_cost_and_which_model_it_is(
    loaded: tuple[Backend, LoadReport], model: tuple[str, Path]
) -> None:
    report = loaded[1]
    name, folder = model
    on_disk = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert report.bytes_on_disk == on_disk
    assert report.seconds >= 0
    assert report.receipt["backend"] == name
    assert report.receipt["model"] == folder.name
    assert len(str(report.receipt["revision"])) == 64
    assert report.receipt["tier"] == "resident"


def test_a_changed_folder_has_another_revision(model: tuple[str, Path], tmp_path: Path) -> None:
    name, folder = model
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    before = create_backend(name).load(copy, "cpu", "resident").receipt["revision"]
    assert before == create_backend(name).load(folder, "cpu", "resident").receipt["revision"]
    with (copy / "atelier.toml").open("a", encoding="utf-8") as card:
        card.write("# changed")
    assert before != create_backend(name).load(copy, "cpu", "resident").receipt["revision"]


def test_a_picture_of_the_asked_size_is_written_below_the_folder_and_only_by_encode(
    backend: Backend, model: tuple[str, Path], tmp_path: Path
) -> None:
    progress = Progress()
    generated = backend.generate([generation_request(tmp_path)], progress.report, progress.cancelled)
    assert list(tmp_path.iterdir()) == []
    (encoded,) = generated.encode()
    expected = files(model, 7)
    assert list(encoded.artifacts) == expected
    assert {path.name for path in tmp_path.iterdir()} == {file.name for file in expected}
    with Image.open(tmp_path / "0.png") as image:
        assert (image.size, image.mode) == ((64, 48), "RGB")
        assert len(image.getcolors(maxcolors=64 * 48) or []) > 16


def test_the_file_names_task_seed_and_model_and_never_the_prompt(
    backend: Backend, model: tuple[str, Path], tmp_path: Path
) -> None:
    data = b"".join(made(backend, tmp_path))
    with Image.open(tmp_path / "0.png") as image:
        text = cast("PngImageFile", image).text
    assert text["task_id"] == generation_request(tmp_path).task_id
    assert text["seed"] == "7"
    assert text["model"] == model[1].name
    assert text["prompt_sha256"] == hashlib.sha256(XML_PROMPT.encode()).hexdigest()
    assert b"character" not in data


def test_the_same_seed_gives_the_same_bytes(backend: Backend, tmp_path: Path) -> None:
    assert made(backend, tmp_path / "a") == made(backend, tmp_path / "b")


@pytest.mark.parametrize(
    "changes",
    [{"seeds": (8,)}, {"prompt": XML_PROMPT.replace("blue_hair", "red_hair")}, {"negative_prompt": "blurry"}],
    ids=["seed", "prompt", "negative prompt"],
)
def test_another_seed_or_prompt_gives_another_picture(
    backend: Backend, tmp_path: Path, changes: dict[str, object]
) -> None:
    def pixels(folder: Path, **changed: object) -> bytes:
        made(backend, folder, **changed)
        with Image.open(folder / "0.png") as image:
            return image.tobytes()

    assert pixels(tmp_path / "a") != pixels(tmp_path / "b", **changes)


def test_every_seed_and_every_request_gets_its_own_files_in_order(
    backend: Backend, model: tuple[str, Path], tmp_path: Path
) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    requests = [
        generation_request(folders[0], seeds=(7, 8)),
        generation_request(folders[1], seeds=(9,), prompt="a cat", prompt_format="text"),
    ]
    progress = Progress()
    encoded = backend.generate(requests, progress.report, progress.cancelled).encode()
    expected = [files(model, 7, 8), files(model, 9)]
    assert [list(one.artifacts) for one in encoded] == expected
    for folder, its_files in zip(folders, expected, strict=True):
        assert {path.name for path in folder.iterdir()} == {file.name for file in its_files}


def test_progress_is_encoding_then_every_step_then_decoding(backend: Backend, tmp_path: Path) -> None:
    progress = Progress()
    backend.generate([generation_request(tmp_path)], progress.report, progress.cancelled)
    assert progress.seen == [
        ("encoding", 0, 0),
        ("denoising", 1, 3),
        ("denoising", 2, 3),
        ("denoising", 3, 3),
        ("decoding", 0, 0),
    ]


def test_a_cancelled_job_stops_at_the_next_step_and_the_backend_goes_on(backend: Backend, tmp_path: Path) -> None:
    progress = Progress(cancel_after=2)
    request = generation_request(tmp_path, steps=50)
    with pytest.raises(GenerationCancelledError):
        backend.generate([request], progress.report, progress.cancelled)
    assert [step for phase, step, _ in progress.seen if phase == "denoising"] == [1, 2]
    assert made(backend, tmp_path)


def test_timings_and_receipt_come_with_every_result(backend: Backend, tmp_path: Path) -> None:
    progress = Progress()
    (encoded,) = backend.generate([generation_request(tmp_path)], progress.report, progress.cancelled).encode()
    assert set(encoded.timings) == {"encode", "denoise", "decode"}
    assert all(seconds >= 0 for seconds in encoded.timings.values())
    assert {"model", "revision", "backend", "tier", "device"} <= set(encoded.receipt)


@pytest.mark.parametrize("changes", [{"seeds": ()}, {"steps": 0}, {"width": 0}])
def test_impossible_parameters_are_refused_before_anything_is_reported(
    backend: Backend, tmp_path: Path, changes: dict[str, object]
) -> None:
    progress = Progress()
    with pytest.raises(InvalidParameterError):
        backend.generate([generation_request(tmp_path, **changes)], progress.report, progress.cancelled)
    assert progress.seen == []


def test_a_backend_that_is_not_loaded_or_was_unloaded_says_so(model: tuple[str, Path], tmp_path: Path) -> None:
    name, folder = model
    backend = create_backend(name)
    progress = Progress()
    with pytest.raises(BackendError, match="not loaded"):
        backend.generate([generation_request(tmp_path)], progress.report, progress.cancelled)
    backend.load(folder, "cpu", "resident")
    backend.unload()
    with pytest.raises(BackendError, match="not loaded"):
        backend.generate([generation_request(tmp_path)], progress.report, progress.cancelled)


def test_a_folder_without_a_card_is_refused(model: tuple[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"atelier\.toml"):
        create_backend(model[0]).load(tmp_path, "cpu", "resident")


def test_an_image_is_read_where_the_card_says_so_and_is_named_in_the_receipt(
    backend: Backend, model: tuple[str, Path], tmp_path: Path
) -> None:
    if read_card(model[1])["model"].get("image_input", "none") == "none":
        pytest.skip("the model takes no image")
    out = tmp_path / "out"
    out.mkdir()
    image = out / "input.png"
    image.write_bytes(picture("PNG", (20, 10), colour=(0, 0, 255)))
    progress = Progress()
    request = generation_request(out, image=image)
    (encoded,) = backend.generate([request], progress.report, progress.cancelled).encode()
    assert encoded.receipt["input_image_sha256"] == hashlib.sha256(image.read_bytes()).hexdigest()
    assert (out / encoded.artifacts[0].name).read_bytes() != made(backend, tmp_path / "plain")[0]
    image.write_bytes(HTML)
    with pytest.raises(InvalidParameterError):
        backend.generate([request], progress.report, progress.cancelled)
