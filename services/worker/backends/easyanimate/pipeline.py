"""From prompts, seeds and pictures to frames, on diffusers' EasyAnimate pipelines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
from diffusers.pipelines.easyanimate.pipeline_easyanimate import EasyAnimatePipeline
from diffusers.pipelines.easyanimate.pipeline_easyanimate_inpaint import EasyAnimateInpaintPipeline

from services.worker.backends.base import GenerationCancelledError, InvalidOutputError
from services.worker.backends.easyanimate.text import collate
from services.worker.backends.networks.device import PhaseClock
from services.worker.backends.previews import PREVIEW_SIDE

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from services.worker.backends.base import Cancelled, Report, Sketch
    from services.worker.backends.easyanimate.loading import EasyAnimateComponents
    from services.worker.backends.easyanimate.placement import Placement
    from services.worker.backends.easyanimate.text import EncodedPrompts

# Guidance at or below this is the conditional prediction alone: one forward row instead of two.
NO_GUIDANCE: Final = 1.0
# Of a mask: what the model makes itself.
_UNKNOWN: Final = 255.0
# And of a video's frames (from -1 to 1) that are not known.
_MASKED: Final = -1.0
# What the pipelines hand to the callback; the flow is no part of their own list.
_CALLBACK_TENSORS: Final = ("latents", "noise_pred")


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSpec:
    """One video. ``image`` (3, height, width), from 0 to 1, is its first frame; without one the model makes it."""

    prompt: str
    negative_prompt: str
    seed: int
    guidance: float
    image: Tensor | None = None


class VideoSize(NamedTuple):
    """Pixels, and frames, of which there are 4k + 1."""

    width: int
    height: int
    frames: int


@dataclass(frozen=True, slots=True)
class Rendered:
    """Frames (frames, height, width, 3) in the order of the specs, and the seconds of each phase of all of them."""

    videos: list[NDArray[np.uint8]]
    timings: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """Specs that one run of a pipeline can compute, and the steps of the runs before it and of all."""

    rows: Sequence[int]
    specs: Sequence[VideoSpec]
    steps_before: int
    steps_in_all: int


class _ImageToVideo(EasyAnimateInpaintPipeline):
    """Draws the noise on the known frames for each row from its own generator, on the host as the latents' noise.

    The library's own takes no list of generators there, and on CUDA none of the host.
    """

    def prepare_mask_latents(self, mask: None, masked_image: Tensor, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - the library's signature
        """Encode the known frames (B, 3, frames, height, width) row by row; the mask is not encoded."""
        del mask
        _, _, _, dtype, device, generators, _ = arguments
        noisy = self.transformer.config.add_noise_in_inpaint_model
        encoded = []
        for row, generator in zip(masked_image, generators, strict=True):
            known = row
            if noisy:
                noise = torch.randn(row.shape, generator=generator) * options["noise_aug_strength"]
                known = row + torch.where(row == _MASKED, 0.0, noise)
            encoded.append(self.vae.encode(known.unsqueeze(0).to(device, dtype))[0].mode())
        return None, torch.cat(encoded) * self.vae.config.scaling_factor


class VideoPipeline:
    """Runs diffusers' pipelines over loaded components. It keeps no state between calls."""

    def __init__(self, components: EasyAnimateComponents, placement: Placement) -> None:
        self._components = components
        self._placement = placement
        self._vae = components.vae
        self._scheduler = components.scheduler
        space: int = components.vae.spatial_compression_ratio
        self._vae_factor = space
        # Sides must be multiples of this many pixels, and frames one more than a multiple of that many.
        self.side_multiple: int = space * components.transformer.config.patch_size
        self.frame_step: int = components.vae.temporal_compression_ratio

    @torch.inference_mode()
    def render(
        self, specs: Sequence[VideoSpec], size: VideoSize, steps: int, report: Report, cancelled: Cancelled
    ) -> Rendered:
        """Make a video of ``size`` for each spec; those with the same guidance go through the model as one batch.

        Raises GenerationCancelledError between two steps, InvalidParameterError for a prompt that is too long,
        InvalidOutputError for values that are not finite.
        """
        clock = PhaseClock(self._placement.device)
        report("encoding")
        with self._placement.on_device(self._components.encoder.model):
            prompts = self._encode(specs)
        clock.end("encode")
        latents: dict[int, Tensor] = {}
        with self._placement.on_device(self._components.transformer):
            for batch in _batches(specs, steps):
                made = self._denoise(batch, prompts, size, steps, _Watch(report, cancelled))
                latents.update(zip(batch.rows, made, strict=True))
        clock.end("denoise")
        _stop_if(cancelled)
        report("decoding")
        videos = [self._decode(latents[row]) for row in range(len(specs))]
        clock.end("decode")
        return Rendered(videos, clock.seconds)

    def _encode(self, specs: Sequence[VideoSpec]) -> dict[str, EncodedPrompts]:
        """Encode every different text once."""
        texts = [spec.prompt for spec in specs]
        texts += [spec.negative_prompt for spec in specs if spec.guidance > NO_GUIDANCE]
        return {text: self._components.encoder.encode(text) for text in dict.fromkeys(texts)}

    def _denoise(
        self, batch: _Batch, prompts: dict[str, EncodedPrompts], size: VideoSize, steps: int, watch: _Watch
    ) -> Tensor:
        """Return the latents (B, C, T, H, W) of a batch."""
        _stop_if(watch.cancelled)
        guidance = batch.specs[0].guidance
        positive = collate([prompts[spec.prompt] for spec in batch.specs])
        given = {"prompt_embeds": positive.features, "prompt_attention_mask": positive.mask}
        if guidance > NO_GUIDANCE:
            negative = collate([prompts[spec.negative_prompt] for spec in batch.specs])
            given |= {"negative_prompt_embeds": negative.features, "negative_prompt_attention_mask": negative.mask}
        pipeline = self._pipeline()

        def after_step(_pipeline: object, step: int, _time: object, tensors: dict[str, Any]) -> dict[str, Any]:
            sigma = pipeline.scheduler.sigmas[step + 1]
            sketch = self._sketch(tensors["latents"][0], tensors["noise_pred"][0], sigma)
            watch.report("denoising", batch.steps_before + step + 1, batch.steps_in_all, sketch)
            # Nothing but an exception leaves the pipeline's loop without a decoded video.
            _stop_if(watch.cancelled)
            return {}

        (latents,) = pipeline(
            **given,
            **_first_frames(batch.specs, size),
            num_frames=size.frames,
            width=size.width,
            height=size.height,
            num_inference_steps=steps,
            guidance_scale=guidance,
            generator=[torch.Generator("cpu").manual_seed(spec.seed) for spec in batch.specs],
            output_type="latent",
            return_dict=False,
            callback_on_step_end=after_step,
            callback_on_step_end_tensor_inputs=list(_CALLBACK_TENSORS),
        )
        return latents  # type: ignore[no-any-return] # diffusers has no types

    def _pipeline(self) -> Any:  # noqa: ANN401 - diffusers has no types
        """A pipeline of its own for each run: it and its scheduler keep what the last run was about."""
        kind: Any = _ImageToVideo if self._components.takes_images else EasyAnimatePipeline
        pipeline = kind(
            vae=self._vae,
            text_encoder=None,
            tokenizer=None,
            transformer=self._components.transformer,
            scheduler=type(self._scheduler).from_config(self._scheduler.config),
        )
        pipeline._callback_tensor_inputs = list(_CALLBACK_TENSORS)  # noqa: SLF001 - its check of the names
        pipeline.set_progress_bar_config(disable=True)
        self._clear_frames()
        return pipeline

    def _sketch(self, latents: Tensor, flow: Tensor, sigma: Tensor) -> Sketch:
        """Decode where the flow leads to from here, of the first frame alone, and shrunk before."""

        def sketch() -> NDArray[np.uint8]:
            first = (latents - sigma * flow)[:, :1].float()
            small = shrunk(first, PREVIEW_SIDE // self._vae_factor).to(latents.dtype)
            frame: NDArray[np.uint8] = self._decode(small)[0]
            return frame

        return sketch

    def _decode(self, latents: Tensor) -> NDArray[np.uint8]:
        """Decode one video (C, T, H, W), alone: the decoder's memory is what limits a video's size."""
        self._clear_frames()
        (video,) = self._vae.decode(latents.unsqueeze(0) / self._vae.config.scaling_factor, return_dict=False)
        frames = []
        for frame in video[0].unbind(1):
            levels = (frame.float() / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0
            if not bool(torch.isfinite(levels).all()):
                message = "the model produced values that are not finite"
                raise InvalidOutputError(message)
            frames.append(levels.round().to(torch.uint8).permute(1, 2, 0))
        pixels: NDArray[np.uint8] = torch.stack(frames).cpu().numpy()
        return pixels

    def _clear_frames(self) -> None:
        """Forget the frames that a run which failed half way left in the decoder."""
        self._vae._clear_conv_cache()  # noqa: SLF001 - the library clears it only at the end of a run


class _Watch(NamedTuple):
    report: Report
    cancelled: Cancelled


def shrunk(latents: Tensor, side: int) -> Tensor:
    """One row (channels, frames, height, width) averaged down until no side is longer; as it is where none was."""
    height, width = latents.shape[-2:]
    scale = side / max(height, width, side)
    size = (latents.shape[1], max(1, round(height * scale)), max(1, round(width * scale)))
    small: Tensor = torch.nn.functional.interpolate(latents.unsqueeze(0), size=size, mode="area")[0]
    return small


def _batches(specs: Sequence[VideoSpec], steps: int) -> list[_Batch]:
    """The pipelines know one guidance for all rows, and treat a row without a picture like one with an empty one."""
    kinds: dict[tuple[float, bool], list[int]] = {}
    for row, spec in enumerate(specs):
        kinds.setdefault((spec.guidance, spec.image is not None), []).append(row)
    return [
        _Batch(
            rows=rows,
            specs=[specs[row] for row in rows],
            steps_before=number * steps,
            steps_in_all=len(kinds) * steps,
        )
        for number, rows in enumerate(kinds.values())
    ]


def _first_frames(specs: Sequence[VideoSpec], size: VideoSize) -> dict[str, Tensor]:
    """What the image-to-video pipeline is given: the picture as every frame, and a mask that keeps only the first."""
    images = [spec.image for spec in specs if spec.image is not None]
    if not images:
        return {}
    video = torch.stack(images).unsqueeze(2).expand(-1, -1, size.frames, -1, -1)
    mask = torch.full((len(images), 1, *video.shape[2:]), _UNKNOWN)
    mask[:, :, 0] = 0.0
    return {"video": video, "mask_video": mask}


def _stop_if(cancelled: Cancelled) -> None:
    if cancelled():
        raise GenerationCancelledError
