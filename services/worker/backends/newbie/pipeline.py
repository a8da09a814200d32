"""From prompts and seeds to pixels: one batch, one Euler loop, asked between steps whether to go on."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import torch

from services.worker.backends.base import GenerationCancelledError, InvalidOutputError
from services.worker.backends.newbie.embeddings import PromptKey
from services.worker.backends.newbie.hooks import FirstBlockCache
from services.worker.backends.newbie.sampling import SHIFT, flow_sigmas, guide, initial_noise, shrunk
from services.worker.backends.newbie.text import collate
from services.worker.backends.previews import PREVIEW_SIDE

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from services.worker.backends.base import Cancelled, Report, Sketch
    from services.worker.backends.newbie.embeddings import EmbeddingCache
    from services.worker.backends.newbie.loading import NewbieComponents
    from services.worker.backends.newbie.placement import Placement
    from services.worker.backends.newbie.text import EncodedPrompt

# Guidance at or below this is the conditional prediction alone: one forward row instead of two.
NO_GUIDANCE: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureSpec:
    """One picture of a batch. Rows of a batch share their size and steps and nothing else.

    Guidance is applied while the time (0 noise, 1 picture) is below ``cfg_trunc``, and clamped to ``cfg_renorm`` times
    the conditional prediction's norm (0: not clamped). ``scope`` is for whom its prompts' features are kept.
    """

    prompt: str
    negative_prompt: str
    prompt_format: str
    seed: int
    guidance: float
    scope: str = ""
    cfg_trunc: float = 1.0
    cfg_renorm: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """What all pictures of a batch share. Sides are pixels; ``cache_threshold`` as in a card's ``[quality]``."""

    width: int
    height: int
    steps: int
    cache_threshold: float = 0.0
    shift: float = SHIFT


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """Pixels (height, width, 3) in the order of the specs, and the seconds of each phase of the whole batch.

    ``known`` says of each spec whether both its prompts were encoded before; ``skipped`` is how many of all steps took
    their result from the block cache.
    """

    pixels: list[NDArray[np.uint8]]
    timings: dict[str, float]
    known: list[bool]
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class _Batch:
    specs: Sequence[PictureSpec]
    positive: list[EncodedPrompt]
    negative: list[EncodedPrompt]

    def alone(self) -> Iterator[_Batch]:
        """Each picture as a batch of its own."""
        for row, spec in enumerate(self.specs):
            yield _Batch([spec], [self.positive[row]], [self.negative[row]])


class NewbiePipeline:
    """The sampling loop over loaded components. It keeps no state between calls, but for what is in ``embeddings``."""

    def __init__(self, components: NewbieComponents, placement: Placement, embeddings: EmbeddingCache) -> None:
        self._transformer = components.transformer
        self._encoder = components.encoder
        self._vae = components.vae
        self._placement = placement
        self._embeddings = embeddings
        self._device = placement.device
        self._dtype = components.transformer.dtype
        config: Any = components.transformer.config
        self._channels: int = config.in_channels
        self._vae_factor: int = 2 ** (len(components.vae.config.block_out_channels) - 1)
        # Sides must be multiples of this many pixels.
        self.side_multiple: int = self._vae_factor * config.patch_size

    @torch.inference_mode()
    def render(
        self, specs: Sequence[PictureSpec], sampling: Sampling, report: Report, cancelled: Cancelled
    ) -> Rendered:
        """Make a picture for each spec.

        Raises GenerationCancelledError between two steps, InvalidParameterError for a prompt that is too long,
        InvalidOutputError for values that are not finite.
        """
        clock = _PhaseClock(self._device)
        report("encoding")
        batch, known = self._encode(specs)
        clock.end("encode")
        cache = FirstBlockCache(self._transformer, sampling.cache_threshold)
        # One row's change must not decide for another: with the cache every picture is made alone.
        batches = [batch] if not sampling.cache_threshold else list(batch.alone())
        rounds = _Rounds(sampling, report, cancelled, len(batches))
        latents = torch.cat([self._denoise(one, rounds, cache) for one in batches])
        clock.end("denoise")
        _stop_if(cancelled)
        report("decoding")
        with self._placement.on_device(self._vae):
            pixels = [self._decode(row) for row in latents]
        clock.end("decode")
        return Rendered(pixels=pixels, timings=clock.seconds, known=known, skipped=cache.skipped)

    def _denoise(self, batch: _Batch, rounds: _Rounds, cache: FirstBlockCache) -> Tensor:
        """From noise to latents (B, C, H, W) along Euler's steps."""
        sampling = rounds.sampling
        shape = (self._channels, sampling.height // self._vae_factor, sampling.width // self._vae_factor)
        latents = initial_noise([spec.seed for spec in batch.specs], shape).to(self._device)
        with cache.running():
            for sigma, following in pairwise(flow_sigmas(sampling.steps, sampling.shift)):
                _stop_if(rounds.cancelled)
                flow = self._flow(latents, 1.0 - sigma, batch, cache)
                latents = latents - (following - sigma) * flow
                rounds.done(self._sketch(latents[0], flow[0], following))
        return latents

    def _sketch(self, latents: Tensor, flow: Tensor, sigma: float) -> Sketch | None:
        """Decode where the flow leads to from here, shrunk before: the decoder's work is that of so small a picture.

        None where the decoder would have to be brought to the device for it.
        """
        if not self._placement.at_hand:
            return None
        return lambda: self._decode(shrunk(latents + sigma * flow, PREVIEW_SIDE // self._vae_factor))

    def _encode(self, specs: Sequence[PictureSpec]) -> tuple[_Batch, list[bool]]:
        """Encode every different prompt once, and say of each spec whether its prompts were known before."""
        keys = [
            [PromptKey(spec.scope, text, spec.prompt_format) for text in (spec.prompt, spec.negative_prompt)]
            for spec in specs
        ]
        wanted = list(dict.fromkeys(key for pair in keys for key in pair))
        found = {key: self._embeddings.get(key, self._device) for key in wanted}
        missing = [key for key, prompt in found.items() if prompt is None]
        encoded = {key: prompt for key, prompt in found.items() if prompt is not None}
        if missing:
            with self._placement.on_device(*self._encoder.towers):
                encoded |= {key: self._encoder.encode(key.text, key.prompt_format) for key in missing}
        for key in missing:
            self._embeddings.put(key, encoded[key])
        batch = _Batch(
            specs, positive=[encoded[pair[0]] for pair in keys], negative=[encoded[pair[1]] for pair in keys]
        )
        return batch, [not any(key in missing for key in pair) for pair in keys]

    def _flow(self, latents: Tensor, time_: float, batch: _Batch, cache: FirstBlockCache) -> Tensor:
        """Predict the flow from noise to picture in float32; rows that need guidance get a second forward row."""
        guided = [row for row, spec in enumerate(batch.specs) if spec.guidance > NO_GUIDANCE and time_ < spec.cfg_trunc]
        condition, mask = collate(batch.positive + [batch.negative[row] for row in guided])
        rows = torch.cat([latents, latents[guided]]).to(self._dtype)
        times = torch.full((len(rows),), time_, device=self._device)
        with cache.step(len(rows)):
            flow: Tensor = self._transformer(rows, times, condition, mask).float()
        conditional, unconditional = flow[: len(latents)], flow[len(latents) :]
        if guided:
            scale = torch.tensor([batch.specs[row].guidance for row in guided], device=self._device)
            renorm = torch.tensor([batch.specs[row].cfg_renorm for row in guided], device=self._device)
            conditional[guided] = guide(conditional[guided], unconditional, scale, renorm)
        return conditional

    def _decode(self, latents: Tensor) -> NDArray[np.uint8]:
        """Decode one row, alone: the decoder's memory is what limits the size of a picture."""
        scaled = latents / self._vae.config.scaling_factor + self._vae.config.shift_factor
        (image,) = self._vae.decode(scaled.unsqueeze(0).to(self._dtype), return_dict=False)
        levels = (image[0].float() / 2.0 + 0.5).clamp(0.0, 1.0) * 255.0
        if not bool(torch.isfinite(levels).all()):
            message = "the model produced values that are not finite"
            raise InvalidOutputError(message)
        pixels: NDArray[np.uint8] = levels.round().to(torch.uint8).permute(1, 2, 0).contiguous().cpu().numpy()
        return pixels


class _Rounds:
    """Counts the steps of all batches of a call as one row of steps."""

    def __init__(self, sampling: Sampling, report: Report, cancelled: Cancelled, batches: int) -> None:
        self.sampling, self.cancelled = sampling, cancelled
        self._report = report
        self._step, self._steps = 0, sampling.steps * batches

    def done(self, sketch: Sketch | None) -> None:
        """One more step is done."""
        self._step += 1
        self._report("denoising", self._step, self._steps, sketch)


class _PhaseClock:
    """Seconds of each phase; waits for the device, which otherwise works on after a phase's last call."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def end(self, phase: str) -> None:
        """Close the phase that began when the last one ended."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        self.seconds[phase] = now - self._last
        self._last = now


def _stop_if(cancelled: Cancelled) -> None:
    if cancelled():
        raise GenerationCancelledError
