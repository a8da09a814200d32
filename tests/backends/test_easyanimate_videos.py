"""What the EasyAnimate backend computes, on the tiny models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, EasyAnimateTransformer3DModel
from diffusers.pipelines.easyanimate.pipeline_easyanimate_inpaint import get_image_to_video_latent
from PIL import Image

from services.worker.backends.base import (
    GenerationCancelledError,
    GenerationRequest,
    InvalidOutputError,
    InvalidParameterError,
    OutOfMemoryError,
)
from services.worker.backends.easyanimate.backend import EasyAnimateBackend
from services.worker.backends.easyanimate.text import MAX_TOKENS
from tests.support.generation import XML_PROMPT, Progress, generation_request

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

RED = (200, 30, 30)


def loaded(folder: Path) -> EasyAnimateBackend:
    backend = EasyAnimateBackend()
    backend.load(folder, "cpu", "resident")
    return backend


@pytest.fixture(scope="module")
def backend(tiny_easyanimate: Path) -> EasyAnimateBackend:
    return loaded(tiny_easyanimate)


@pytest.fixture(scope="module")
def from_image(tiny_easyanimate_inp: Path) -> EasyAnimateBackend:
    return loaded(tiny_easyanimate_inp)


def request_of(folder: Path, **changes: Any) -> GenerationRequest:  # noqa: ANN401 - any field
    return generation_request(folder, **{"num_frames": 9, "steps": 2, **changes})


def frames(backend: EasyAnimateBackend, *requests: GenerationRequest) -> list[NDArray[np.uint8]]:
    progress = Progress()
    generated = backend.generate(list(requests), progress.report, progress.cancelled)
    return [video for videos in generated.sets for video in videos.videos]


def largest_difference(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> int:
    return int(np.abs(first.astype(np.int16) - second.astype(np.int16)).max())


def picture(folder: Path, colour: tuple[int, int, int], size: tuple[int, int] = (64, 48)) -> Path:
    path = folder / f"{'-'.join(map(str, colour))}.png"
    Image.new("RGB", size, colour).save(path)
    return path


def published(folder: Path) -> Any:  # noqa: ANN401 - diffusers has no types
    """The library's own pipeline, text encoder and all."""
    library: Any = DiffusionPipeline
    pipeline = library.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


ASKED: dict[str, Any] = {
    "prompt": XML_PROMPT,
    "negative_prompt": "blurry",
    "num_frames": 9,
    "width": 64,
    "height": 48,
    "num_inference_steps": 2,
    "guidance_scale": 4.5,
    "output_type": "np",
}


def test_a_video_of_a_text_is_the_library_s_own(
    backend: EasyAnimateBackend, tiny_easyanimate: Path, tmp_path: Path
) -> None:
    pipeline = published(tiny_easyanimate)
    expected = pipeline(**ASKED, generator=torch.Generator().manual_seed(7)).frames[0]
    (video,) = frames(backend, request_of(tmp_path, negative_prompt="blurry"))
    assert largest_difference(video, np.rint(expected * 255).astype(np.uint8)) <= 1


def test_a_video_of_a_picture_is_the_library_s_own(
    from_image: EasyAnimateBackend, tiny_easyanimate_inp: Path, tmp_path: Path
) -> None:
    pipeline = published(tiny_easyanimate_inp)
    pipeline.vae.register_to_config(cache_mag_vae=True)
    image = Image.new("RGB", (64, 48), RED)
    video, mask = get_image_to_video_latent([image], None, 9, (48, 64))  # type: ignore[no-untyped-call] # the library's gap
    expected = pipeline(**ASKED, video=video, mask_video=mask, generator=torch.Generator().manual_seed(7)).frames[0]
    asked = request_of(tmp_path, negative_prompt="blurry", image=picture(tmp_path, RED))
    (made,) = frames(from_image, asked)
    assert largest_difference(made, np.rint(expected * 255).astype(np.uint8)) <= 1


def test_rows_of_a_batch_equal_single_runs(backend: EasyAnimateBackend, tmp_path: Path) -> None:
    one = request_of(tmp_path, seeds=(3, 4))
    two = request_of(tmp_path, prompt="a cat", prompt_format="text", seeds=(5,))
    unguided = request_of(tmp_path, prompt="a dog", guidance=1.0, seeds=(6,))
    together = frames(backend, one, two, unguided)
    alone = [
        *frames(backend, request_of(tmp_path, seeds=(3,))),
        *frames(backend, request_of(tmp_path, seeds=(4,))),
        *frames(backend, two),
        *frames(backend, unguided),
    ]
    # Equal to about 2e-6 before rounding to 256 levels.
    assert max(largest_difference(*pair) for pair in zip(together, alone, strict=True)) <= 1


def test_rows_with_and_without_a_picture_equal_single_runs(from_image: EasyAnimateBackend, tmp_path: Path) -> None:
    red = request_of(tmp_path, image=picture(tmp_path, RED), seeds=(3, 4))
    none = request_of(tmp_path)
    blue = request_of(tmp_path, image=picture(tmp_path, (20, 20, 220)))
    together = frames(from_image, red, none, blue)
    alone = [
        *frames(from_image, request_of(tmp_path, image=red.image, seeds=(3,))),
        *frames(from_image, request_of(tmp_path, image=red.image, seeds=(4,))),
        *frames(from_image, none),
        *frames(from_image, blue),
    ]
    assert max(largest_difference(*pair) for pair in zip(together, alone, strict=True)) <= 1


def test_the_picture_moves_the_video_and_its_size_does_not_matter(
    from_image: EasyAnimateBackend, tmp_path: Path
) -> None:
    (red,) = frames(from_image, request_of(tmp_path, image=picture(tmp_path, RED)))
    (none,) = frames(from_image, request_of(tmp_path))
    (blue,) = frames(from_image, request_of(tmp_path, image=picture(tmp_path, (20, 20, 220))))
    (large,) = frames(from_image, request_of(tmp_path, image=picture(tmp_path, RED, (500, 300))))
    assert np.array_equal(red, large)
    assert min(largest_difference(*pair) for pair in ((red, none), (red, blue), (none, blue))) > 5


def test_the_picture_covers_the_frame_and_keeps_its_proportions(from_image: EasyAnimateBackend, tmp_path: Path) -> None:
    wide = Image.new("RGB", (256, 48), RED)
    wide.paste((20, 20, 220), (0, 0, 64, 48))
    wide.paste((20, 20, 220), (192, 0, 256, 48))
    wide.save(tmp_path / "wide.png")
    (cut,) = frames(from_image, request_of(tmp_path, image=tmp_path / "wide.png"))
    (red,) = frames(from_image, request_of(tmp_path, image=picture(tmp_path, RED)))
    assert np.array_equal(cut, red)


def test_a_model_of_texts_takes_no_picture(backend: EasyAnimateBackend, tmp_path: Path) -> None:
    with pytest.raises(InvalidParameterError, match="takes no picture"):
        frames(backend, request_of(tmp_path, image=picture(tmp_path, RED)))


@pytest.mark.parametrize("content", [b"", b"<svg/>", b"<html></html>", b"\x89PNG\r\n\x1a\n" + bytes(64)])
def test_what_is_no_picture_is_the_client_s_fault(
    from_image: EasyAnimateBackend, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "image").write_bytes(content)
    with pytest.raises(InvalidParameterError, match="image"):
        frames(from_image, request_of(tmp_path, image=tmp_path / "image"))


@pytest.mark.parametrize("count", [1, 5, 13, 49])
def test_every_number_of_frames_of_the_form_4k_plus_1_is_made_exactly(
    backend: EasyAnimateBackend, tmp_path: Path, count: int
) -> None:
    size = {"width": 32, "height": 32, "steps": 1}
    progress = Progress()
    request = request_of(tmp_path, num_frames=count, **size)
    (encoded,) = backend.generate([request], progress.report, progress.cancelled).encode()
    assert encoded.artifacts[0].frames == count
    with av.open(str(tmp_path / "0.mp4")) as container:
        read = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert read.shape == (count, 32, 32, 3)
    with Image.open(tmp_path / "0.png") as poster:
        first = np.asarray(poster)
    # The poster is the first frame, which the video holds with its losses.
    assert np.abs(first.astype(int) - read[0]).mean() < 16


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"num_frames": 8}, "num_frames 8 is not one more than a multiple of 4"),
        ({"num_frames": 0}, "num_frames 0"),
        ({"width": 72}, "width 72 is not a multiple of 16"),
        ({"height": 8}, "height 8"),
        ({"seeds": (-1,)}, "seeds"),
        ({"seeds": (2**63,)}, "seeds"),
        ({"options": {"sampler": "ddim"}}, "sampler"),
    ],
)
def test_what_the_library_would_round_or_ignore_is_refused_by_name(
    backend: EasyAnimateBackend, tmp_path: Path, changes: dict[str, object], shown: str
) -> None:
    with pytest.raises(InvalidParameterError, match=shown):
        frames(backend, request_of(tmp_path, **changes))


@pytest.mark.parametrize("changes", [{"width": 32}, {"num_frames": 5}, {"steps": 3}])
def test_a_batch_of_two_shapes_is_refused(
    backend: EasyAnimateBackend, tmp_path: Path, changes: dict[str, object]
) -> None:
    with pytest.raises(InvalidParameterError, match="different sizes, frames or steps"):
        frames(backend, request_of(tmp_path), request_of(tmp_path, **changes))


def test_a_prompt_over_the_token_limit_is_refused_with_its_count(backend: EasyAnimateBackend, tmp_path: Path) -> None:
    assert len(frames(backend, request_of(tmp_path, prompt="~" * (MAX_TOKENS - 60), steps=1))) == 1
    with pytest.raises(InvalidParameterError, match=r"has \d{3} tokens with the chat template; the model reads 256"):
        frames(backend, request_of(tmp_path, prompt="~" * MAX_TOKENS))
    with pytest.raises(InvalidParameterError, match="tokens"):
        frames(backend, request_of(tmp_path, negative_prompt="~" * MAX_TOKENS))


def test_a_cancelled_video_leaves_a_sound_model(backend: EasyAnimateBackend, tmp_path: Path) -> None:
    (before,) = frames(backend, request_of(tmp_path))
    progress = Progress(cancel_after=1)
    with pytest.raises(GenerationCancelledError):
        backend.generate([request_of(tmp_path)], progress.report, progress.cancelled)
    assert progress.seen == [("encoding", 0, 0), ("denoising", 1, 2)]
    assert np.array_equal(frames(backend, request_of(tmp_path))[0], before)


def test_cancelling_before_the_first_step_computes_none(backend: EasyAnimateBackend, tmp_path: Path) -> None:
    progress = Progress(cancel_after=0)
    with pytest.raises(GenerationCancelledError):
        backend.generate([request_of(tmp_path)], progress.report, progress.cancelled)
    assert progress.seen == [("encoding", 0, 0)]


def test_a_decoding_that_failed_half_way_leaves_nothing_for_the_next_video(
    backend: EasyAnimateBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (before,) = frames(backend, request_of(tmp_path))
    vae: Any = backend.guarded().parts["vae"]
    decode, calls = vae.decoder.forward, []

    def fails_once(latents: torch.Tensor) -> Any:  # noqa: ANN401 - stands for the forward
        calls.append(latents)
        if len(calls) == 2:
            message = "CUDA error: out of memory"
            raise torch.OutOfMemoryError(message)
        return decode(latents)

    monkeypatch.setattr(vae.decoder, "forward", fails_once)
    with pytest.raises(OutOfMemoryError, match="1 videos of 9 frames of 64x48"):
        frames(backend, request_of(tmp_path))
    monkeypatch.undo()
    assert np.array_equal(frames(backend, request_of(tmp_path))[0], before)


def test_values_that_are_not_finite_are_an_error_and_no_video(
    backend: EasyAnimateBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(_self: object, latents: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor]:  # noqa: ANN401
        return (torch.full_like(latents, float("nan")),)

    monkeypatch.setattr(EasyAnimateTransformer3DModel, "forward", breaks)
    with pytest.raises(InvalidOutputError, match="not finite"):
        frames(backend, request_of(tmp_path))


def test_guidance_is_one_forward_a_step_with_a_second_row(
    backend: EasyAnimateBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    forward = EasyAnimateTransformer3DModel.forward

    def counting(self: EasyAnimateTransformer3DModel, latents: torch.Tensor, *rest: Any, **more: Any) -> Any:  # noqa: ANN401
        rows.append(len(latents))
        return forward(self, latents, *rest, **more)

    monkeypatch.setattr(EasyAnimateTransformer3DModel, "forward", counting)
    frames(backend, request_of(tmp_path, seeds=(1, 2)))
    frames(backend, request_of(tmp_path, guidance=1.0))
    assert rows == [4, 4, 1, 1]


def test_groups_of_other_guidance_count_their_steps_on(backend: EasyAnimateBackend, tmp_path: Path) -> None:
    progress = Progress()
    requests = [request_of(tmp_path), request_of(tmp_path, guidance=1.0)]
    backend.generate(requests, progress.report, progress.cancelled)
    assert [seen[1:] for seen in progress.seen if seen[0] == "denoising"] == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.parametrize(("size", "shape"), [((128, 64), (48, 96, 3)), ((64, 48), (48, 64, 3))])
def test_a_sketch_of_each_step_is_a_small_picture_and_changes_nothing(
    backend: EasyAnimateBackend, tmp_path: Path, size: tuple[int, int], shape: tuple[int, ...]
) -> None:
    request = request_of(tmp_path, width=size[0], height=size[1])
    progress = Progress(sketching=True)
    (made,) = backend.generate([request], progress.report, progress.cancelled).sets
    assert [sketch.shape for sketch in progress.sketches] == [shape] * 2
    assert np.array_equal(made.videos[0], frames(backend, request)[0])
    if size == (64, 48):  # nothing to shrink
        assert largest_difference(progress.sketches[-1], made.videos[0][0]) <= 1


def test_the_receipt_says_how_the_video_was_made(from_image: EasyAnimateBackend, tmp_path: Path) -> None:
    progress = Progress()
    requests = [request_of(tmp_path), request_of(tmp_path, image=picture(tmp_path, RED))]
    plain, pictured = from_image.generate(requests, progress.report, progress.cancelled).encode()
    assert (plain.receipt["mode"], pictured.receipt["mode"]) == ("text_to_video", "image_to_video")
    assert {"av", "diffusers", "dtype", "revision", "scheduler", "video_codec"} <= set(plain.receipt)


def test_no_requests_are_no_videos(backend: EasyAnimateBackend) -> None:
    assert frames(backend) == []
