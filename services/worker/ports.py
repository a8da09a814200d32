"""What the worker's use cases ask of the outside, beyond the shared ports."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from services.worker.backends.base import Encoded, GenerationRequest
    from services.worker.supervisor import Job, Limits
    from shared.contracts.event import TaskEvent


class Runner(Protocol):
    """The model, in whatever process it lives."""

    receipt: dict[str, str | int | float]
    load_seconds: float

    def ensure_ready(self) -> None:
        """Return once a job can begin. Raises RunnerLoadError."""
        ...

    def begin(self, job: Job, request: GenerationRequest) -> None:
        """Hand over a job; its futures tell the rest."""
        ...

    def wait_computed(self, job: Job, limits: Limits) -> None:
        """Return once the device is free again, or raise what went wrong (a TaskError)."""
        ...

    def wait_encoded(self, job: Job) -> Encoded:
        """Return once a computed job's files are written, or raise what went wrong. Any thread may wait."""
        ...


class EventSink(Protocol):
    """Takes events that may be lost (all but the last one of a task) without making anybody wait."""

    def offer(self, event: TaskEvent) -> None:
        """Send it some time soon."""
        ...
