"""The port that a model implements. Backends know pictures and parameters: no broker, storage, HTTP, environment."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from shared.domain.errors import AtelierError, BackendError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

# A still of a video, to be shown before it plays.
POSTER: Final = "poster"


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


class InvalidOutputError(AtelierError):
    """The model made something that is no picture, or not the one that was asked for; its seed would make it again."""

    code = "invalid_output"
    retryable = False


class StateLostError(BackendError):
    """The process or the model could not be brought back to its state before the task."""

    code = "state_lost"


class Isolation(StrEnum):
    """What happens between two tasks: the parts stay and are checked, or some are loaded anew every time."""

    RESIDENT = "resident"
    RELOAD = "reload"


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """What must carry nothing from one task to the next: modules, schedulers and the like, by name.

    ``each_time`` names the parts that policy ``reload`` loads anew after every task. ``still`` says whether weights
    keep their place in memory while a task runs, which they do not where they are offloaded.
    """

    parts: Mapping[str, object] = field(default_factory=dict)
    isolation: Isolation = Isolation.RESIDENT
    each_time: frozenset[str] = frozenset()
    still: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """MiB. Peaks count from a task's start.

    On CUDA: ``peak_mb`` the most that tensors took, ``allocated_mb`` what they take now, ``reserved_mb`` the most that
    was held from the device. On the CPU: ``peak_mb`` the process's highest resident set, the other two 0.
    ``rss_mb`` is the process's resident set now, on any device.
    """

    peak_mb: int = 0
    allocated_mb: int = 0
    reserved_mb: int = 0
    rss_mb: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One task's work, fully resolved: nothing is defaulted by the backend.

    Sizes are pixels, ``guidance`` is the classifier-free guidance scale, ``seeds`` holds one seed for each picture
    (``len(seeds)`` pictures are made). Files are written below ``out_dir`` and nowhere else. ``image`` is what to start
    from, a file as it came from a stranger: only ``input_images`` reads it.
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
    image: Path | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactFile:
    """One file that the backend wrote, named relative to the request's ``out_dir``.

    ``role`` is None for what was asked for, and POSTER for what only shows it.
    """

    name: str
    media_type: str
    width: int
    height: int
    seed: int
    frames: int = 1
    fps: float | None = None
    role: Literal["poster"] | None = None


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


class Sketch(Protocol):
    """Makes a small picture of how far the first result has come."""

    def __call__(self) -> NDArray[np.uint8]:
        """Return pixels (height, width, 3)."""
        ...


class Report(Protocol):
    """Progress of the requests that are being computed."""

    def __call__(self, phase: str, step: int = 0, steps: int = 0, sketch: Sketch | None = None) -> None:
        """``phase`` is one of loading, encoding, denoising, decoding, storing; step counts from 1.

        ``sketch`` is called at once where a preview is due, which is seldom.
        """
        ...


class Cancelled(Protocol):
    """Asked between steps; true once the work is no longer wanted."""

    def __call__(self) -> bool:
        """Whether to stop now."""
        ...


class Backend(Protocol):
    """A model. One instance lives in one child process, and its methods are called by one thread at a time.

    An error that a library raises for want of memory may escape from any method: it is recognised by its caller.
    """

    def tiers(self) -> tuple[str, ...]:
        """Return the supported memory tiers, from the fastest to the most sparing; known before loading."""
        ...

    def load(self, model_dir: Path, device: str, tier: str) -> LoadReport:
        """Load the weights from a local folder. ``tier`` is the memory tier: resident, tiled, offload, sequential."""
        ...

    def set_tier(self, tier: str) -> None:
        """Change the tier of a loaded model, from whatever state an earlier change was left in when it failed."""
        ...

    def generate(self, requests: list[GenerationRequest], report: Report, cancelled: Cancelled) -> Generated:
        """Compute all requests (same shape) and return as soon as the device is free.

        Raises GenerationCancelledError between steps, InvalidParameterError, InvalidOutputError, OutOfMemoryError.
        """
        ...

    def guarded(self) -> Guarded:
        """Return what has to be the same before and after every task."""
        ...

    def reload(self, parts: frozenset[str]) -> None:
        """Load (at least) these parts anew, at the tier that is set."""
        ...

    def unload(self) -> None:
        """Free the device."""
        ...


class Simple:
    """The rest of a backend that knows one tier and keeps nothing from one task to the next."""

    def tiers(self) -> tuple[str, ...]:
        """See Backend."""
        return ("resident",)

    def set_tier(self, tier: str) -> None:
        """See Backend; there is only one."""

    def guarded(self) -> Guarded:
        """See Backend; there is nothing."""
        return Guarded()

    def reload(self, parts: frozenset[str]) -> None:
        """See Backend; there is nothing."""
