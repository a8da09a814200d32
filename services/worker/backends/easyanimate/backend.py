"""EasyAnimate V5.1 behind the backend port."""

from __future__ import annotations

import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch

from services.worker.backends.base import Guarded, InvalidParameterError, Isolation, LoadReport, OutOfMemoryError
from services.worker.backends.easyanimate.first_frame import first_frame
from services.worker.backends.easyanimate.loading import load_components, load_transformer
from services.worker.backends.easyanimate.pipeline import VideoPipeline, VideoSize, VideoSpec
from services.worker.backends.easyanimate.placement import OFFLOAD, SEQUENTIAL, TIERS, Placement
from services.worker.backends.input_images import image_digest
from services.worker.backends.model_folder import model_id, read_card, revision
from services.worker.backends.networks.device import device_name, hand_back, set_matmul_precision
from services.worker.backends.networks.offload import HOST
from services.worker.backends.pristine.policy import isolation_of
from services.worker.backends.videos import CODEC, GeneratedVideos, VideoSet
from shared.domain.errors import BackendError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.worker.backends.base import Cancelled, GenerationRequest, Report
    from services.worker.backends.easyanimate.loading import EasyAnimateComponents
    from services.worker.backends.easyanimate.pipeline import Rendered

LIBRARIES: Final = ("torch", "diffusers", "transformers", "av")
TRANSFORMER: Final = "transformer"
MAX_SEED: Final = 2**63 - 1
MEBIBYTE: Final = 1 << 20
# What the published model was trained for, in frames a second, and what a card may say instead.
FPS: Final = 8.0
MOST_FPS: Final = 120.0


class _Model(NamedTuple):
    components: EasyAnimateComponents
    placement: Placement


class EasyAnimateBackend:
    """Text, or a text and a first picture, to video: Euler flow matching, bf16 on CUDA and float32 on the CPU.

    Which of the two it is, the folder's transformer says; one that takes a picture works without one as well. Tiers:
    see ``placement``. Options of the card: ``isolation``, ``float32_matmul_precision``, ``fps``.
    """

    def __init__(self) -> None:
        self._model: _Model | None = None
        self._device = HOST
        self._folder = Path()
        self._isolation = Isolation.RESIDENT
        self._fps = FPS
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
        self._isolation, self._fps = isolation_of(card), _fps(card)
        set_matmul_precision(card)
        self._folder, self._device = model_dir, torch.device(device)
        digest, size = revision(model_dir)
        self._receipt = {
            "model": model_id(card),
            "revision": digest,
            "backend": "easyanimate",
            "scheduler": "flow_match_euler",
            "dtype": str(self._dtype).removeprefix("torch."),
            "tier": tier,
            "device": device_name(self._device),
            "video_codec": CODEC,
            **{library: version(library) for library in LIBRARIES},
        }
        self._load_parts(tier)
        return LoadReport(seconds=time.monotonic() - started, bytes_on_disk=size, receipt=dict(self._receipt))

    def set_tier(self, tier: str) -> None:
        """See Backend."""
        self._place(self._loaded().components, tier)

    def generate(self, requests: list[GenerationRequest], report: Report, cancelled: Cancelled) -> GeneratedVideos:
        """Compute every video of every request; sizes, frames and steps must be the same in all requests."""
        components, placement = self._loaded()
        if not requests:
            return GeneratedVideos([])
        pipeline = VideoPipeline(components, placement)
        for request in requests:
            _check(request, requests[0], pipeline, takes_images=components.takes_images)
        first = requests[0]
        size = VideoSize(first.width, first.height, first.num_frames)
        specs = [spec for request in requests for spec in _specs(request)]
        try:
            rendered = pipeline.render(specs, size, first.steps, report, cancelled)
        except torch.OutOfMemoryError as exc:
            shown = f"{len(specs)} videos of {size.frames} frames of {size.width}x{size.height}"
            message = f"{shown} do not fit on {device_name(self._device)}"
            raise OutOfMemoryError(message) from exc
        return GeneratedVideos(list(self._sets(requests, rendered)))

    def guarded(self) -> Guarded:
        """See Backend: the three networks. Only the transformer is ever reloaded without need."""
        components, placement = self._loaded()
        parts = {TRANSFORMER: components.transformer, "text_encoder": components.encoder.model, "vae": components.vae}
        return Guarded(
            parts=parts,
            isolation=self._isolation,
            each_time=frozenset({TRANSFORMER}),
            still=placement.still,
        )

    def reload(self, parts: frozenset[str]) -> None:
        """Load the transformer anew, or everything where another part is named."""
        tier = str(self._receipt["tier"])
        kept = replace(self._loaded().components, transformer=None) if parts == {TRANSFORMER} else None
        # The old weights go first: there may be no room for both.
        self._model = None
        if kept is None:
            self._load_parts(tier)
            return
        hand_back(self._device)
        transformer = load_transformer(self._folder, self._first_place(tier), self._dtype)
        self._place(replace(kept, transformer=transformer), tier)

    def unload(self) -> None:
        """Drop the weights and hand their memory back."""
        self._model = None
        hand_back(self._device)

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
        hand_back(self._device)
        self._place(load_components(self._folder, self._first_place(tier), self._dtype), tier)

    def _place(self, components: EasyAnimateComponents, tier: str) -> None:
        # Remembered before moving: a move that fails half way is made good by the next one.
        self._model = _Model(components, Placement(components, self._device))
        self._model.placement.apply(tier)
        self._receipt["tier"] = tier

    def _sets(self, requests: list[GenerationRequest], rendered: Rendered) -> Iterator[VideoSet]:
        receipt = dict(self._receipt)
        if self._device.type == "cuda":
            receipt["peak_vram_mb"] = torch.cuda.max_memory_allocated(self._device) // MEBIBYTE
        videos = iter(rendered.videos)
        for request in requests:
            yield VideoSet(
                request=request,
                model_id=str(receipt["model"]),
                videos=tuple(next(videos) for _ in request.seeds),
                fps=self._fps,
                timings=dict(rendered.timings),
                receipt={**receipt, "batch": len(rendered.videos), **_mode(request)},
            )


def _fps(card: dict[str, Any]) -> float:
    value = card.get("options", {}).get("fps", FPS)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= MOST_FPS:
        message = f"model card: [options] fps = {value!r} is not a number from 1 to {MOST_FPS:g}"
        raise ConfigurationError(message)
    return float(value)


def _mode(request: GenerationRequest) -> dict[str, str]:
    if request.image is None:
        return {"mode": "text_to_video"}
    return {"mode": "image_to_video", "input_image_sha256": image_digest(request.image)}


def _specs(request: GenerationRequest) -> Iterator[VideoSpec]:
    image = None if request.image is None else first_frame(request.image, request.width, request.height)
    for seed in request.seeds:
        yield VideoSpec(
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            seed=seed,
            guidance=request.guidance,
            image=image,
        )


def _check(
    request: GenerationRequest, first: GenerationRequest, pipeline: VideoPipeline, *, takes_images: bool
) -> None:
    """Refuse what this model cannot do, whatever the model card says: the pipelines would round sides and frames."""
    problems = []
    for name, side in (("width", request.width), ("height", request.height)):
        if side < pipeline.side_multiple or side % pipeline.side_multiple:
            problems.append(f"{name} {side} is not a multiple of {pipeline.side_multiple}")
    if request.num_frames < 1 or (request.num_frames - 1) % pipeline.frame_step:
        problems.append(f"num_frames {request.num_frames} is not one more than a multiple of {pipeline.frame_step}")
    if request.steps < 1:
        problems.append(f"steps {request.steps} is less than 1")
    if not request.seeds or not all(0 <= seed <= MAX_SEED for seed in request.seeds):
        problems.append(f"seeds must be one or more numbers from 0 to {MAX_SEED}")
    if request.options:
        problems.append(f"options {', '.join(request.options)} are unknown")
    if request.image is not None and not takes_images:
        problems.append("this model takes no picture")
    shapes = {(one.width, one.height, one.num_frames, one.steps) for one in (request, first)}
    if len(shapes) > 1:
        problems.append("requests of one batch have different sizes, frames or steps")
    if problems:
        raise InvalidParameterError("; ".join(problems))
