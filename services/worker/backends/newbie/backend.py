"""NewBie-image behind the backend port."""

from __future__ import annotations

import gc
import platform
import time
from dataclasses import replace
from importlib.metadata import version
from itertools import islice
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import torch

from services.worker.backends.base import Guarded, InvalidParameterError, Isolation, LoadReport, OutOfMemoryError
from services.worker.backends.images import GeneratedPictures, PictureSet
from services.worker.backends.model_folder import model_id, read_card, revision
from services.worker.backends.newbie.embeddings import EmbeddingCache
from services.worker.backends.newbie.hooks import compile_blocks, store_in_8_bits
from services.worker.backends.newbie.loading import load_components, load_transformer
from services.worker.backends.newbie.pipeline import NewbiePipeline, PictureSpec, Sampling
from services.worker.backends.newbie.placement import HOST, OFFLOAD, SEQUENTIAL, TIERS, Placement
from services.worker.backends.newbie.settings import NewbieOptions, read_options, read_thresholds
from services.worker.backends.pristine.policy import isolation_of
from shared.domain.errors import BackendError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.worker.backends.base import Cancelled, GenerationRequest, Report
    from services.worker.backends.newbie.loading import NewbieComponents
    from services.worker.backends.newbie.pipeline import Rendered

OPTIONS: Final = ("cfg_trunc", "cfg_renorm")
LIBRARIES: Final = ("torch", "diffusers", "transformers")
TRANSFORMER: Final = "transformer"
MAX_SEED: Final = 2**63 - 1
MEBIBYTE: Final = 1 << 20


class _Model(NamedTuple):
    components: NewbieComponents
    placement: Placement


class NewbieBackend:
    """Text to image with NewBie: Euler flow matching, bf16 on CUDA and float32 on the CPU.

    Tiers: see ``placement``. Options of the card: ``isolation``, and those of ``NewbieOptions``. Options of a request:
    ``cfg_trunc`` and ``cfg_renorm`` (see PictureSpec).
    """

    def __init__(self) -> None:
        self._model: _Model | None = None
        self._device = HOST
        self._folder = Path()
        self._isolation = Isolation.RESIDENT
        self._options = NewbieOptions()
        self._thresholds: dict[str, float] = {}
        self._embeddings = EmbeddingCache(0)
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
        card = read_card(model_dir)
        self._isolation = isolation_of(card)
        self._options, self._thresholds = read_options(card), read_thresholds(card)
        if self._options.float32_matmul_precision is not None:
            torch.set_float32_matmul_precision(self._options.float32_matmul_precision)
        self._folder, self._device = model_dir, torch.device(device)
        digest, size = revision(model_dir)
        self._receipt = {
            "model": model_id(card),
            "revision": digest,
            "backend": "newbie",
            "scheduler": "flow_match_euler",
            "shift": self._options.shift,
            "dtype": str(self._dtype).removeprefix("torch."),
            "storage": self._options.storage,
            "tier": tier,
            "device": _device_name(self._device),
            **{library: version(library) for library in LIBRARIES},
        }
        self._load_parts(tier)
        return LoadReport(seconds=time.monotonic() - started, bytes_on_disk=size, receipt=dict(self._receipt))

    def set_tier(self, tier: str) -> None:
        """See Backend."""
        self._place(self._loaded().components, tier)

    def generate(self, requests: list[GenerationRequest], report: Report, cancelled: Cancelled) -> GeneratedPictures:
        """Compute every picture of every request in one batch; sizes and steps must be the same in all requests."""
        pipeline = NewbiePipeline(*self._loaded(), self._embeddings)
        if not requests:
            return GeneratedPictures([])
        for request in requests:
            _check(request, requests[0], pipeline.side_multiple)
        first = requests[0]
        specs = [spec for request in requests for spec in _specs(request)]
        try:
            rendered = pipeline.render(specs, self._sampling(first), report, cancelled)
        except torch.OutOfMemoryError as exc:
            message = (
                f"{len(specs)} pictures of {first.width}x{first.height} do not fit on {_device_name(self._device)}"
            )
            raise OutOfMemoryError(message) from exc
        return GeneratedPictures(list(self._sets(requests, rendered)))

    def guarded(self) -> Guarded:
        """See Backend: the four networks. The text encoders and the VAE are never reloaded without need."""
        components, placement = self._loaded()
        gemma, jina = components.encoder.towers
        parts = {TRANSFORMER: components.transformer, "text_encoder": gemma, "clip_model": jina, "vae": components.vae}
        return Guarded(
            parts=parts,
            isolation=self._isolation,
            each_time=frozenset({TRANSFORMER}),
            still=placement.still and self._options.storage == "full",
        )

    def reload(self, parts: frozenset[str]) -> None:
        """Load the transformer anew, or everything where another part is named."""
        tier = str(self._receipt["tier"])
        kept = None
        if parts == {TRANSFORMER}:
            kept = replace(self._loaded().components, transformer=None)  # type: ignore[arg-type] # until the next lines
        # The old weights go first: there may be no room for both.
        self._model = None
        if kept is None:
            self._load_parts(tier)
            return
        self._free()
        gemma, _ = kept.encoder.towers
        transformer = load_transformer(
            self._folder, cap_feat_dim=gemma.config.hidden_size, device=self._first_place(tier), dtype=self._dtype
        )
        self._place(self._prepared(replace(kept, transformer=transformer)), tier)

    def unload(self) -> None:
        """Drop the weights and what they made of prompts, and hand their memory back."""
        self._embeddings.clear()
        self._model = None
        self._free()

    @property
    def components(self) -> NewbieComponents:
        """The networks and tokenizers of the loaded model."""
        return self._loaded().components

    def _sampling(self, request: GenerationRequest) -> Sampling:
        return Sampling(
            width=request.width,
            height=request.height,
            steps=request.steps,
            cache_threshold=self._thresholds.get(request.quality, 0.0),
            shift=self._options.shift,
        )

    @property
    def _dtype(self) -> torch.dtype:
        return torch.bfloat16 if self._device.type == "cuda" else torch.float32

    def _loaded(self) -> _Model:
        if self._model is None:
            message = "the model is not loaded"
            raise BackendError(message)
        return self._model

    def _first_place(self, tier: str) -> torch.device:
        """Return where files are read to: what is offloaded never has to fit on the device as a whole."""
        return HOST if tier in {OFFLOAD, SEQUENTIAL} else self._device

    def _load_parts(self, tier: str) -> None:
        self._free()
        # Under the strict policy nothing at all goes from one task to the next.
        kept = self._options.embedding_cache_bytes if self._isolation is Isolation.RESIDENT else 0
        self._embeddings = EmbeddingCache(kept)
        self._place(self._prepared(load_components(self._folder, self._first_place(tier), self._dtype)), tier)

    def _prepared(self, components: NewbieComponents) -> NewbieComponents:
        if self._options.storage == "fp8":
            store_in_8_bits(components.transformer, self._dtype)
        if self._options.compile:
            compile_blocks(components.transformer)
        return components

    def _place(self, components: NewbieComponents, tier: str) -> None:
        # Remembered before moving: a move that fails half way is made good by the next one.
        self._model = _Model(components, Placement(components, self._device))
        self._model.placement.apply(tier)
        self._receipt["tier"] = tier

    def _free(self) -> None:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _sets(self, requests: list[GenerationRequest], rendered: Rendered) -> Iterator[PictureSet]:
        receipt = dict(self._receipt)
        if self._device.type == "cuda":
            receipt["peak_vram_mb"] = torch.cuda.max_memory_allocated(self._device) // MEBIBYTE
        pixels, known = iter(rendered.pixels), iter(rendered.known)
        if self._thresholds.get(requests[0].quality):
            receipt |= {"cache_threshold": self._thresholds[requests[0].quality], "steps_cached": rendered.skipped}
        for request in requests:
            receipt["embeddings"] = "cached" if all(list(islice(known, len(request.seeds)))) else "computed"
            yield PictureSet(
                request=request,
                model_id=str(receipt["model"]),
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
            scope=request.scope,
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
    if _likeness(request) != _likeness(first):
        problems.append("requests of one batch have different sizes, steps or qualities")
    if problems:
        raise InvalidParameterError("; ".join(problems))


def _likeness(request: GenerationRequest) -> tuple[object, ...]:
    return request.width, request.height, request.steps, request.quality


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()
