"""The port that a model implements. Backends know pictures and parameters: no broker, storage, HTTP, environment."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from shared.domain.errors import AtelierError

if TYPE_CHECKING:
    from pathlib import Path


class GenerationCancelledError(AtelierError):
    """The backend stopped between two steps because it was asked to."""

    code = "cancelled"
    retryable = False


class InvalidParameterError(AtelierError):
    """The model refuses these parameters; another attempt would be refused as well."""

    code = "invalid_parameter"
    retryable = False


class OutOfMemoryError(AtelierError):
    """The device's memory does not hold this request."""

    code = "out_of_memory"
    retryable = True


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One task's work, fully resolved: nothing is defaulted by the backend.

    Sizes are pixels, ``guidance`` is the classifier-free guidance scale, ``seeds`` holds one seed for each picture
    (``len(seeds)`` pictures are made). Files are written below ``out_dir`` and nowhere else.
    """

    task_id: str
    prompt: str
    negative_prompt: str
    prompt_format: str
    width: int
    height: int
    steps: int
    guidance: float
    seeds: tuple[int, ...]
    num_frames: int
    out_dir: Path
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactFile:
    """One file that the backend wrote, named relative to the request's ``out_dir``."""

    name: str
    media_type: str
    width: int
    height: int
    seed: int
    frames: int = 1
    fps: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """What one request became. ``timings`` are seconds by phase; ``receipt`` is what reproduces the result."""

    artifacts: tuple[ArtifactFile, ...]
    timings: dict[str, float]
    receipt: dict[str, str | int | float]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """What loading cost: seconds, bytes read from disk, and facts for every receipt of this child."""

    seconds: float
    bytes_on_disk: int
    receipt: dict[str, str | int | float]


class Generated(Protocol):
    """Results that are computed (the device is free again) and not yet written as files."""

    def encode(self) -> list[Encoded]:
        """Write the files of every request, in the requests' order. Runs beside the next computation."""
        ...


class Report(Protocol):
    """Progress of the requests that are being computed."""

    def __call__(self, phase: str, step: int = 0, steps: int = 0) -> None:
        """``phase`` is one of loading, encoding, denoising, decoding, storing; step counts from 1."""
        ...


class Cancelled(Protocol):
    """Asked between steps; true once the work is no longer wanted."""

    def __call__(self) -> bool:
        """Whether to stop now."""
        ...


class Backend(Protocol):
    """A model. One instance lives in one child process, and its methods are called by one thread at a time."""

    def load(self, model_dir: Path, device: str, tier: str) -> LoadReport:
        """Load the weights from a local folder. ``tier`` is the memory tier: resident, tiled, offload, sequential."""
        ...

    def generate(self, requests: list[GenerationRequest], report: Report, cancelled: Cancelled) -> Generated:
        """Compute all requests (same shape) and return as soon as the device is free.

        Raises GenerationCancelledError between steps, InvalidParameterError, OutOfMemoryError.
        """
        ...

    def unload(self) -> None:
        """Free the device."""
        ...
