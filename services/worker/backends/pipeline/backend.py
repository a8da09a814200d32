"""Any text-to-image or text-to-video pipeline of diffusers in a local folder, behind the backend port."""

from __future__ import annotations

import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch

from services.worker.backends.base import Guarded, InvalidParameterError, Isolation, LoadReport
from services.worker.backends.images import GeneratedPictures, PictureSet
from services.worker.backends.model_folder import model_id, read_card, revision
from services.worker.backends.networks.device import device_name, hand_back, set_matmul_precision
from services.worker.backends.pipeline.call import excess_tokens, plan_call
from services.worker.backends.pipeline.loading import load_pipeline
from services.worker.backends.pipeline.options import read_options
from services.worker.backends.pipeline.placement import TIERS, lacks, place, stays
from services.worker.backends.pipeline.sampling import sample
from services.worker.backends.videos import GeneratedVideos, VideoSet
from shared.domain.errors import BackendError, ConfigurationError

if TYPE_CHECKING:
    from services.worker.backends.base import Cancelled, Generated, GenerationRequest, Report
    from services.worker.backends.pipeline.call import Call
    from services.worker.backends.pipeline.options import PipelineOptions
    from services.worker.backends.pipeline.sampling import Sampled
    from shared.contracts.model_card import Limits, ModelCard

LIBRARIES: Final = ("torch", "diffusers", "transformers")
MAX_SEED: Final = 2**63 - 1
MEBIBYTE: Final = 1 << 20
# Whatever else a pipeline calls its networks, these are not the one that makes the picture.
_AROUND: Final = ("text_encoder", "image_encoder", "vae", "vqvae", "safety_checker")


class _Model(NamedTuple):
    pipeline: Any
    call: Call
    card: ModelCard
    options: PipelineOptions


class DiffusersBackend:
    """Text to image or video with a pipeline of diffusers: bf16 on CUDA and float32 on the CPU, unless the card says.

    Tiers: see ``placement``. Options of the card: see ``PipelineOptions``. Requests have no options.
    """

    def __init__(self) -> None:
        self._model: _Model | None = None
        self._device = torch.device("cpu")
        self._folder = Path()
        self._receipt: dict[str, str | int | float] = {}

    def tiers(self) -> tuple[str, ...]:
        """See Backend."""
        return TIERS

    def load(self, model_dir: Path, device: str, tier: str) -> LoadReport:
        """Load the folder. Raises ConfigurationError, OutOfMemoryError."""
        if tier not in TIERS:
            message = f"memory tier {tier!r} is not one of {', '.join(TIERS)}"
            raise ConfigurationError(message)
        started = time.monotonic()
        document = read_card(model_dir)
        card, options = read_options(document)
        set_matmul_precision(document)
        self._folder, self._device, self._model = model_dir, torch.device(device), None
        hand_back(self._device)
        digest, size = revision(model_dir)
        dtype = self._dtype(options)
        pipeline = load_pipeline(model_dir, dtype, options.variant)
        self._receipt = {
            "model": model_id(document),
            "revision": digest,
            "backend": "diffusers",
            "pipeline": type(pipeline).__name__,
            "scheduler": type(getattr(pipeline, "scheduler", None)).__name__,
            "dtype": str(dtype).removeprefix("torch."),
            "device": device_name(self._device),
            **{library: version(library) for library in LIBRARIES},
        }
        self._place(_Model(pipeline, plan_call(pipeline, card, options), card, options), tier)
        return LoadReport(seconds=time.monotonic() - started, bytes_on_disk=size, receipt=dict(self._receipt))

    def set_tier(self, tier: str) -> None:
        """See Backend."""
        self._place(self._loaded(), tier)

    def generate(self, requests: list[GenerationRequest], report: Report, cancelled: Cancelled) -> Generated:
        """Compute all requests in one batch; sizes, frames, steps and guidance must be the same in all."""
        model = self._loaded()
        if not requests:
            return GeneratedPictures([])  # nothing, of whatever kind
        for request in requests:
            _check(request, requests[0], model)
        sampled = sample(model.pipeline, model.call, requests, report, cancelled)
        return self._made(requests, sampled, model)

    def guarded(self) -> Guarded:
        """See Backend: every network, and the scheduler. What makes the picture is what is loaded anew each time."""
        model = self._loaded()
        parts = {
            name: part
            for name, part in model.pipeline.components.items()
            if isinstance(part, torch.nn.Module) or name.startswith("scheduler")
        }
        return Guarded(
            parts=parts,
            isolation=Isolation(model.options.isolation),
            each_time=frozenset(name for name in parts if not name.startswith(_AROUND)),
            still=stays(str(self._receipt["tier"])),
        )

    def reload(self, parts: frozenset[str]) -> None:
        """Load these components anew, and keep the others."""
        model = self._loaded()
        model.pipeline.remove_all_hooks()
        kept = {name: part for name, part in model.pipeline.components.items() if name not in parts}
        # The old weights go first: there may be no room for both.
        self._model = None
        call, card, options = model[1:]
        del model
        hand_back(self._device)
        pipeline = load_pipeline(self._folder, self._dtype(options), options.variant, kept)
        self._place(_Model(pipeline, call, card, options), str(self._receipt["tier"]))

    def unload(self) -> None:
        """Drop the weights and hand their memory back."""
        self._model = None
        hand_back(self._device)

    def _dtype(self, options: PipelineOptions) -> torch.dtype:
        if options.dtype is not None:
            named: torch.dtype = getattr(torch, options.dtype)
            return named
        return torch.bfloat16 if self._device.type == "cuda" else torch.float32

    def _loaded(self) -> _Model:
        if self._model is None:
            message = "the model is not loaded"
            raise BackendError(message)
        return self._model

    def _place(self, model: _Model, tier: str) -> None:
        if lack := lacks(model.pipeline, tier):
            message = f"{type(model.pipeline).__name__} has no memory tier {tier!r}: that needs {lack}"
            raise ConfigurationError(message)
        # Remembered before moving: a move that fails half way is made good by the next one.
        self._model = model
        place(model.pipeline, tier, self._device)
        self._receipt["tier"] = tier

    def _made(self, requests: list[GenerationRequest], sampled: Sampled, model: _Model) -> Generated:
        receipt = {**self._receipt, "batch": len(sampled.pixels)}
        if self._device.type == "cuda":
            receipt["peak_vram_mb"] = torch.cuda.max_memory_allocated(self._device) // MEBIBYTE
        rows = iter(sampled.pixels)
        pictures, videos = [], []
        for request in requests:
            own = tuple(next(rows) for _ in request.seeds)
            what: dict[str, Any] = {"request": request, "model_id": str(receipt["model"])}
            told: dict[str, Any] = {"timings": dict(sampled.timings), "receipt": dict(receipt)}
            if model.call.frames is None:
                pictures.append(PictureSet(**what, pixels=own, **told))
            else:
                videos.append(VideoSet(**what, videos=own, fps=model.options.fps, **told))
        return GeneratedPictures(pictures) if model.call.frames is None else GeneratedVideos(videos)


def _check(request: GenerationRequest, first: GenerationRequest, model: _Model) -> None:
    """Refuse what this model cannot do, whatever the gateway let pass."""
    problems = _outside(request, model.card.limits)
    if request.steps < 1:
        problems.append(f"steps {request.steps} is less than 1")
    if not request.seeds or not all(0 <= seed <= MAX_SEED for seed in request.seeds):
        problems.append(f"seeds must be one or more numbers from 0 to {MAX_SEED}")
    problems += [f"option {name} is unknown" for name in request.options]
    if _shape(request) != _shape(first):
        problems.append("requests of one batch have different sizes, frames, steps or guidance")
    most = model.card.limits.max_prompt_tokens
    for name, text in (("prompt", request.prompt), ("negative prompt", request.negative_prompt)):
        if text and (found := excess_tokens(model.pipeline, text, most)) is not None:
            problems.append(f"the {name} has {found[0]} tokens; the model reads {found[1]}")
    if problems:
        raise InvalidParameterError("; ".join(problems))
    model.call.refuse(request)


def _outside(request: GenerationRequest, limits: Limits) -> list[str]:
    problems = []
    multiple, frames, step = limits.side_multiple, limits.max_frames, limits.frame_step
    for name, side in (("width", request.width), ("height", request.height)):
        if side < multiple or side % multiple:
            problems.append(f"{name} {side} is not a multiple of {multiple}")
    if not 1 <= request.num_frames <= frames:
        problems.append(f"num_frames {request.num_frames} is not from 1 to {frames}")
    elif (request.num_frames - 1) % step:
        problems.append(f"num_frames {request.num_frames} is not one more than a multiple of {step}")
    return problems


def _shape(request: GenerationRequest) -> tuple[object, ...]:
    return request.width, request.height, request.num_frames, request.steps, request.guidance
