"""NewBie-image behind the backend port."""

from __future__ import annotations

import gc
import platform
import time
from importlib.metadata import version
from math import inf
from typing import TYPE_CHECKING, Final

import torch

from services.worker.backends.base import InvalidParameterError, LoadReport, OutOfMemoryError
from services.worker.backends.images import GeneratedPictures, PictureSet
from services.worker.backends.model_folder import model_id, read_card, revision
from services.worker.backends.newbie.loading import load_components
from services.worker.backends.newbie.pipeline import NewbiePipeline, PictureSpec
from services.worker.backends.newbie.sampling import SHIFT
from shared.domain.errors import BackendError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from services.worker.backends.base import Cancelled, GenerationRequest, Report
    from services.worker.backends.newbie.pipeline import Rendered

TIERS: Final = ("resident", "tiled")
OPTIONS: Final = ("cfg_trunc", "cfg_renorm")
LIBRARIES: Final = ("torch", "diffusers", "transformers")
MAX_SEED: Final = 2**63 - 1
MEBIBYTE: Final = 1 << 20


class NewbieBackend:
    """Text to image with NewBie: Euler flow matching, bf16 on CUDA and float32 on the CPU.

    Tiers: ``resident`` keeps everything on the device; ``tiled`` also decodes in tiles.
    Options of a request: ``cfg_trunc`` and ``cfg_renorm`` (see PictureSpec).
    """

    def __init__(self) -> None:
        self._pipeline: NewbiePipeline | None = None
        self._device = torch.device("cpu")
        self._model_id = ""
        self._receipt: dict[str, str | int | float] = {}

    def load(self, model_dir: Path, device: str, tier: str) -> LoadReport:
        """Load the folder. Raises ConfigurationError, OutOfMemoryError."""
        if tier not in TIERS:
            message = f"memory tier {tier!r} is not one of {', '.join(TIERS)}"
            raise ConfigurationError(message)
        started = time.monotonic()
        self._model_id = model_id(read_card(model_dir))
        self._device = torch.device(device)
        dtype = torch.bfloat16 if self._device.type == "cuda" else torch.float32
        components = load_components(model_dir, self._device, dtype)
        if tier == "tiled":
            components.vae.enable_tiling()
        self._pipeline = NewbiePipeline(components)
        digest, size = revision(model_dir)
        self._receipt = {
            "model": self._model_id,
            "revision": digest,
            "backend": "newbie",
            "scheduler": "flow_match_euler",
            "shift": SHIFT,
            "dtype": str(dtype).removeprefix("torch."),
            "tier": tier,
            "device": _device_name(self._device),
            **{library: version(library) for library in LIBRARIES},
        }
        return LoadReport(seconds=time.monotonic() - started, bytes_on_disk=size, receipt=dict(self._receipt))

    def generate(self, requests: list[GenerationRequest], report: Report, cancelled: Cancelled) -> GeneratedPictures:
        """Compute every picture of every request in one batch; sizes and steps must be the same in all requests."""
        if self._pipeline is None:
            message = "the model is not loaded"
            raise BackendError(message)
        if not requests:
            return GeneratedPictures([])
        for request in requests:
            _check(request, requests[0], self._pipeline.side_multiple)
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        first = requests[0]
        specs = [spec for request in requests for spec in _specs(request)]
        try:
            rendered = self._pipeline.render(specs, (first.width, first.height), first.steps, report, cancelled)
        except torch.OutOfMemoryError as exc:
            message = (
                f"{len(specs)} pictures of {first.width}x{first.height} do not fit on {_device_name(self._device)}"
            )
            raise OutOfMemoryError(message) from exc
        return GeneratedPictures(list(self._sets(requests, rendered)))

    def unload(self) -> None:
        """Drop the weights and hand their memory back."""
        self._pipeline = None
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _sets(self, requests: list[GenerationRequest], rendered: Rendered) -> Iterator[PictureSet]:
        receipt = dict(self._receipt)
        if self._device.type == "cuda":
            receipt["peak_vram_mb"] = torch.cuda.max_memory_allocated(self._device) // MEBIBYTE
        pixels = iter(rendered.pixels)
        for request in requests:
            yield PictureSet(
                request=request,
                model_id=self._model_id,
                pixels=tuple(next(pixels) for _ in request.seeds),
                timings=dict(rendered.timings),
                receipt={**receipt, "batch": len(rendered.pixels), **request.options},
            )


def _specs(request: GenerationRequest) -> Iterator[PictureSpec]:
    options = {name: float(value) for name, value in request.options.items()}
    for seed in request.seeds:
        yield PictureSpec(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            prompt_format=request.prompt_format,
            seed=seed,
            guidance=request.guidance,
            **options,
        )


def _check(request: GenerationRequest, first: GenerationRequest, side_multiple: int) -> None:
    """Refuse what this model cannot do, whatever the model card says."""
    problems = []
    for name, side in (("width", request.width), ("height", request.height)):
        if side < side_multiple or side % side_multiple:
            problems.append(f"{name} {side} is not a multiple of {side_multiple}")
    if request.steps < 1:
        problems.append(f"steps {request.steps} is less than 1")
    if request.num_frames != 1:
        problems.append(f"num_frames {request.num_frames} is not 1")
    if not request.seeds or not all(0 <= seed <= MAX_SEED for seed in request.seeds):
        problems.append(f"seeds must be one or more numbers from 0 to {MAX_SEED}")
    for name, value in request.options.items():
        if name not in OPTIONS or isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < inf:
            problems.append(f"option {name}={value!r} is unknown or not a number of 0 or more")
    if (request.width, request.height, request.steps) != (first.width, first.height, first.steps):
        problems.append("requests of one batch have different sizes or steps")
    if problems:
        raise InvalidParameterError("; ".join(problems))


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()
