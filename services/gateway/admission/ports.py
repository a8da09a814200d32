"""Whether a task may come in: the rates of its key, the bounds of its tenant and of its model, decided at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from shared.domain.plans import Rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """What is asked. ``gpu_seconds`` is the price; ``subject`` is what the rates count: a key's prefix, or an address.

    ``bound`` is how many tasks may wait for the model before this one's lane is refused. ``falls_at``: at which work
    outstanding of the tenant on this model the task's level is one lower, from the highest level down. ``again``: the
    id may have been asked for before, and each time counts for the rates. Of what is no task, and
    ``takes_place`` nowhere, only the rates are asked and counted.
    """

    task_id: str
    tenant_id: str
    model: str
    subject: str
    gpu_seconds: float
    rates: tuple[Rate, ...]
    concurrency: int
    queued: int
    gpu_seconds_per_day: float
    bound: int
    falls_at: tuple[float, ...]
    again: bool = False
    takes_place: bool = True


def upload_of(tenant_id: str, subject: str, rates: tuple[Rate, ...]) -> Application:
    """What is asked for a request that is no task."""
    return Application(
        task_id="",
        tenant_id=tenant_id,
        model="",
        subject=subject,
        gpu_seconds=0.0,
        rates=rates,
        concurrency=0,
        queued=0,
        gpu_seconds_per_day=0.0,
        bound=0,
        falls_at=(),
        takes_place=False,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What is left of a rate: requests that may come at once, and seconds until it is full again."""

    rate: Rate
    remaining: int
    reset_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a task stands in its model's queue: its level, what is served before it, and what runs."""

    level: int
    ahead: int
    ahead_work: float
    running: int
    running_work: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """The place is reserved. Work is in predicted GPU-seconds, and all figures are from before this task.

    ``own_work`` is what the tenant has outstanding on the model, ``model_work`` what waits for it. Without ``place``
    nobody knows who stands where. ``held``: the task's queued event was heard, so its message is in the broker already.
    """

    own_work: float = 0.0
    model_work: float = 0.0
    waiting: int = 0
    place: Place | None = None
    windows: tuple[Window, ...] = ()
    degraded: bool = False
    held: bool = False


class Unlimited:
    """An Admission that lets everything in, and OpenTasks that knows none: where no ledger is set up."""

    @property
    def problem(self) -> None:
        """See Admission."""
        return

    def admit(self, application: Application) -> Admitted:
        """See Admission."""
        del application
        return Admitted(degraded=True)

    def withdraw(self, application: Application) -> None:
        """See Admission."""

    def owner(self, task_id: str) -> None:
        """See OpenTasks."""
        del task_id


class Admission(Protocol):
    """Decides, over all replicas."""

    @property
    def problem(self) -> str | None:
        """Why decisions are made with less than everything, or None."""
        ...

    def admit(self, application: Application) -> Admitted:
        """Reserve a place. Raises RateLimitedError, QuotaExceededError, TooManyTasksError, QueueFullError."""
        ...

    def withdraw(self, application: Application) -> None:
        """The task was certainly not published: its place is free again."""
        ...


class OpenTasks(Protocol):
    """Knows the tasks that have not ended, as far as anybody here does."""

    def owner(self, task_id: str) -> str | None:
        """The tenant whose open task that is; None for any other, and where nobody can tell."""
        ...
