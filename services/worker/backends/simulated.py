"""A backend that spends configured seconds and memory and paints a gradient: for load and fault tests."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from services.worker.backends.base import (
    GenerationCancelledError,
    Guarded,
    InvalidParameterError,
    Isolation,
    LoadReport,
    OutOfMemoryError,
)
from services.worker.backends.images import GeneratedPictures, PictureSet
from services.worker.backends.input_images import image_digest, read_image
from services.worker.backends.model_folder import model_id, read_card, revision
from services.worker.backends.previews import PREVIEW_SIDE
from services.worker.backends.pristine.policy import isolation_of
from shared.domain.errors import BackendError, ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from services.worker.backends.base import Cancelled, GenerationRequest, Report

CANCEL_POLL_SECONDS: Final = 0.05
MEBIBYTE: Final = 1 << 20
_GREY: Final = 128.0
# What each memory tier needs of what the model needs at the first one, in the order of the ladder.
SHARES: Final = {"resident": 1.0, "tiled": 0.75, "offload": 0.5, "sequential": 0.25}


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedSettings:
    """What a picture costs: seconds to load, seconds for each step, MiB held while generating.

    ``device_mb`` is how much the simulated device has (0: no end); a lower memory tier needs a smaller share.
    """

    load_seconds: float = 0.0
    seconds_per_step: float = 0.05
    memory_mb: float = 0.0
    memory_mb_per_megapixel: float = 0.0
    device_mb: float = 0.0

    @classmethod
    def from_card(cls, card: dict[str, Any]) -> SimulatedSettings:
        """Read ``[simulated]``. Raises ConfigurationError that names the key."""
        section = card.get("simulated", {})
        for key, value in section.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if key not in cls.__slots__ or not number or not 0 <= value < float("inf"):
                message = f"model card: [simulated] {key} = {value!r} is unknown, or not a number of 0 or more"
                raise ConfigurationError(message)
        return cls(**section)


class SimulatedBackend:
    """Takes exactly pictures x steps x seconds_per_step: each step has its own deadline, so nothing drifts."""

    def __init__(self) -> None:
        self._settings: SimulatedSettings | None = None
        self._model_id = ""
        self._tier = ""
        self._isolation = Isolation.RESIDENT
        self._receipt: dict[str, str | int | float] = {}

    def tiers(self) -> tuple[str, ...]:
        """See Backend."""
        return tuple(SHARES)

    def set_tier(self, tier: str) -> None:
        """See Backend."""
        self._tier = tier

    def guarded(self) -> Guarded:
        """See Backend: there is no network, but the process is guarded."""
        return Guarded(isolation=self._isolation, each_time=frozenset({"card"}))

    def reload(self, parts: frozenset[str]) -> None:
        """Wait ``load_seconds``, as loading does."""
        del parts
        _wait_until(time.monotonic() + self._loaded().load_seconds, None)

    def load(self, model_dir: Path, device: str, tier: str) -> LoadReport:
        """Read the card and wait ``load_seconds``."""
        started = time.monotonic()
        card = read_card(model_dir)
        settings = SimulatedSettings.from_card(card)
        self._isolation = isolation_of(card)
        digest, size = revision(model_dir)
        self._model_id = model_id(card)
        self._receipt = {
            "model": self._model_id,
            "revision": digest,
            "backend": "simulated",
            "device": device,
            "numpy": np.__version__,
        }
        _wait_until(started + settings.load_seconds, None)
        self._settings, self._tier = settings, tier
        receipt = {**self._receipt, "tier": tier}
        return LoadReport(seconds=time.monotonic() - started, bytes_on_disk=size, receipt=receipt)

    def generate(self, requests: list[GenerationRequest], report: Report, cancelled: Cancelled) -> GeneratedPictures:
        """Spend each picture's steps one after the other; ``denoising`` counts the steps of all pictures."""
        started = time.monotonic()
        settings = self._loaded()
        for request in requests:
            _check(request)
        steps = sum(len(request.seeds) * request.steps for request in requests)
        report("encoding")
        grounds = [_ground(request) for request in requests]
        ballast = _allocate(self._needed_mb(settings, requests), settings.device_mb)
        # Painted inside the first step's time, so that a picture costs the configured seconds and no more.
        pixels = [
            tuple(paint(request, seed, ground) for seed in request.seeds)
            for request, ground in zip(requests, grounds, strict=True)
        ]
        for step in range(1, steps + 1):
            _wait_until(started + step * settings.seconds_per_step, cancelled)
            report("denoising", step, steps, lambda share=step / steps: sketch(pixels[0][0], share))
        report("decoding")
        del ballast
        timings = {"encode": 0.0, "denoise": time.monotonic() - started, "decode": 0.0}
        receipt = {**self._receipt, "tier": self._tier, "seconds_per_step": settings.seconds_per_step}
        return GeneratedPictures(
            [
                PictureSet(
                    request=request,
                    model_id=self._model_id,
                    pixels=made,
                    timings=timings,
                    receipt={**receipt, **_input_facts(request)},
                )
                for request, made in zip(requests, pixels, strict=True)
            ]
        )

    def unload(self) -> None:
        """Forget the card."""
        self._settings = None

    def _loaded(self) -> SimulatedSettings:
        if self._settings is None:
            message = "the model is not loaded"
            raise BackendError(message)
        return self._settings

    def _needed_mb(self, settings: SimulatedSettings, requests: list[GenerationRequest]) -> float:
        megapixels = sum(len(one.seeds) * one.width * one.height * one.num_frames for one in requests) / 1e6
        return SHARES[self._tier] * (settings.memory_mb + megapixels * settings.memory_mb_per_megapixel)


def paint(request: GenerationRequest, seed: int, ground: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """Blend two colours drawn from the seed and the prompts, across the picture in a drawn direction.

    Where there is a ``ground`` (height, width, 3), half of that shines through.
    """
    text = f"{seed}\0{request.prompt}\0{request.negative_prompt}".encode()
    drawn = hashlib.sha256(text).digest()
    first, second = np.frombuffer(drawn[:6], dtype=np.uint8).reshape(2, 3).astype(np.float32)
    across = np.linspace(0.0, drawn[6] / 255.0, request.width, dtype=np.float32)
    down = np.linspace(0.0, 1.0 - drawn[6] / 255.0, request.height, dtype=np.float32)
    share = (down[:, None] + across[None, :])[..., None]
    painted = first + (second - first) * share
    return np.rint(painted if ground is None else (painted + ground) / 2).astype(np.uint8)


def _ground(request: GenerationRequest) -> NDArray[np.uint8] | None:
    if request.image is None:
        return None
    return np.asarray(read_image(request.image).resize((request.width, request.height)))


def _input_facts(request: GenerationRequest) -> dict[str, str]:
    return {} if request.image is None else {"input_image_sha256": image_digest(request.image)}


def sketch(pixels: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    """The picture, small, as it comes out of a grey field."""
    stride = max(1, -(-max(pixels.shape) // PREVIEW_SIDE))
    small = pixels[::stride, ::stride].astype(np.float32)
    faded: NDArray[np.uint8] = np.rint(_GREY + (small - _GREY) * share).astype(np.uint8)
    return faded


def _check(request: GenerationRequest) -> None:
    if min(request.width, request.height, request.steps) < 1 or not request.seeds:
        message = "width, height and steps must be at least 1, and there must be a seed for each picture"
        raise InvalidParameterError(message)


def _allocate(mebibytes: float, device_mb: float) -> NDArray[np.uint8]:
    """Hold that much memory; ones, because zeros would be mapped lazily and never become resident."""
    if device_mb and mebibytes > device_mb:
        message = f"the simulated model needs {mebibytes:g} MiB, the simulated device has {device_mb:g}"
        raise OutOfMemoryError(message)
    try:
        return np.ones(int(mebibytes * MEBIBYTE), dtype=np.uint8)
    except MemoryError as exc:
        message = f"the simulated model needs {mebibytes:g} MiB"
        raise OutOfMemoryError(message) from exc


def _wait_until(deadline: float, cancelled: Cancelled | None) -> None:
    """Sleep until the monotonic ``deadline``; raises GenerationCancelledError at most 50 ms after being asked to."""
    while True:
        if cancelled is not None and cancelled():
            raise GenerationCancelledError
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            return
        time.sleep(min(remaining, CANCEL_POLL_SECONDS))
