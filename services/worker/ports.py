"""What the worker's use cases ask of the outside, beyond the shared ports."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from services.worker.backends.base import Encoded, GenerationRequest
    from services.worker.job import Job, Limits
    from services.worker.protocol import Computed
    from shared.contracts.event import TaskEvent
    from shared.contracts.task import TaskMessage
    from shared.domain.errors import TaskError


class Runner(Protocol):
    """The model, in whatever process it lives."""

    receipt: dict[str, str | int | float]
    load_seconds: float

    @property
    def ready(self) -> bool:
        """Whether a job could begin now."""
        ...

    def ensure_ready(self) -> None:
        """Return once a job can begin. Raises RunnerLoadError, ConfigurationError, WorkFolderError."""
        ...

    def interrupt(self, job: Job, error: TaskError) -> None:
        """Have a job end at its next step, or with its process soon after; it then fails with this error."""
        ...

    def begin(self, job: Job, *requests: GenerationRequest, tier: str = "") -> None:
        """Hand over a job, to be computed at a memory tier (or the loaded one); its futures tell the rest.

        Several requests have the same shape, and become one computation.
        """
        ...

    def wait_computed(self, job: Job, limits: Limits) -> Computed:
        """Return once the device is free again, or raise what went wrong (a TaskError)."""
        ...

    def wait_encoded(self, job: Job, row: int = 0) -> Encoded:
        """Return once a computed job's files are written, or raise what went wrong. Any thread may wait.

        ``row`` is the place of the request among those of the job.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a task is to be computed here: at which memory tier, in how many seconds, with how many MiB."""

    tier: str = ""
    seconds: float = 0.0
    memory_mb: int = 0
    figures: Mapping[str, str | int | float] = field(default_factory=dict)


class Planner(Protocol):
    """Knows the device's room and what tasks need."""

    @property
    def broken(self) -> bool:
        """Whether the device is of no use any more, so that waiting would be in vain."""
        ...

    @property
    def pause_seconds(self) -> float:
        """How long to wait before asking for room again."""
        ...

    def has_room(self) -> bool:
        """Whether a usual task could start now; asked before one is taken."""
        ...

    def plan(self, task: TaskMessage) -> Plan | None:
        """How to compute this task now, or None if the room for it did not come within the time one may wait.

        Without waiting where the device is too small for it: another worker's may be larger.
        """
        ...

    def plan_together(self, task: TaskMessage, plan: Plan) -> Plan | None:
        """How to compute a task that was planned before and has more pictures now, at the same tier.

        None where there is no room for that at this moment.
        """
        ...


class Teacher(Protocol):
    """Learns from how tasks went. May take milliseconds: not for the main thread."""

    def succeeded(self, task: TaskMessage, plan: Plan, computed: Computed, seconds: float) -> None:
        """A task was computed in so many seconds of the device; tier and memory are the child's word."""
        ...

    def ran_out(self, task: TaskMessage, plan: Plan, tier: str) -> None:
        """A task did not fit at the planned tier, nor at ``tier``, the last one that was tried."""
        ...


class EventSink(Protocol):
    """Takes events that may be lost (all but the last one of a task) without making anybody wait."""

    def offer(self, event: TaskEvent) -> None:
        """Send it some time soon."""
        ...
