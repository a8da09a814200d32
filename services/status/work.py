"""A task as work: what is needed to publish it again, to end it in time, and to know what its tenant was served. Pure.

Views are for clients; this is for the sweeper. It follows from the same events, and a late one changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from shared.contracts.base import encode
from shared.domain.task import EventType, Lane, TaskState

if TYPE_CHECKING:
    from datetime import datetime

    from services.status.view import TaskView
    from shared.contracts.event import TaskEvent
    from shared.contracts.task import TaskMessage


class WorkState(StrEnum):
    """Where a task is, as far as workers are concerned."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One task. ``document`` is its message, as JSON, of the attempt that waits or runs.

    ``level`` is the highest that this attempt lies at in its work queue, ``ready_at`` when it came there (a retry comes
    after its delay), ``spent_seconds`` what its last attempt took (0 until the end).
    """

    task_id: str
    tenant_id: str
    model: str
    lane: Lane
    state: WorkState
    attempt: int
    level: int
    submitted_at: datetime
    ready_at: datetime
    start_deadline: datetime
    finish_deadline: datetime
    predicted_seconds: float
    spent_seconds: float
    worker: str
    document: str

    @property
    def due_at(self) -> datetime:
        """Until when it must have started, or ended where an attempt has started before."""
        first = self.state is WorkState.WAITING and self.attempt == 1
        return self.start_deadline if first else self.finish_deadline


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkQueue:
    """A model's waiting tasks in short: their mean predicted seconds, and how many workers are seen at work."""

    model: str
    usual_seconds: float
    workers: int


@dataclass(frozen=True, slots=True)
class Front:
    """How far workers have come at one level of a model's queue: when the newest was ready that they have started."""

    model: str
    level: int
    ready_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a task that waits stands: what is served before it, what runs on its model, in predicted GPU-seconds.

    ``workers`` is how many are seen at work.
    """

    ahead: int
    ahead_seconds: float
    running_seconds: float
    workers: int
    own_seconds: float

    @property
    def eta_seconds(self) -> float | None:
        """Seconds to its end if nobody passes it, what runs taken to be half done; None while no worker is seen."""
        if not self.workers:
            return None
        return (self.ahead_seconds + self.running_seconds / 2) / self.workers + self.own_seconds


@dataclass(frozen=True, slots=True)
class Change:
    """What became of a task. Positions ascend in the order in which changes were stored."""

    position: int
    work: Work


def follow(work: Work | None, event: TaskEvent, view: TaskView) -> Work | None:
    """The work after an event that has just changed the view.

    None while no event has told the task, and for one that had ended before it was known: nobody works on it, and its
    tenant is not charged a second time when ends are told again.
    """
    if work is None and event.data.outcome is not None:
        return None
    task = event.data.outcome.task if event.data.outcome is not None else event.data.task
    if task is not None and (work is None or event.attempt > work.attempt):
        return _of(task, event, _state(view.state))
    if work is None:
        return None
    state = _state(view.state)
    return replace(
        work,
        state=state,
        level=work.level if task is None or event.attempt < work.attempt else max(work.level, task.priority),
        worker=event.data.worker or work.worker,
        spent_seconds=_spent_seconds(event),
        document="" if state is WorkState.ENDED else work.document,
    )


def _of(task: TaskMessage, event: TaskEvent, state: WorkState) -> Work:
    delay = event.data.delay_seconds if event.type is EventType.RETRYING else None
    ready_at = task.submitted_at if event.attempt == 1 else event.at + timedelta(seconds=delay or 0.0)
    return Work(
        task_id=task.task_id,
        tenant_id=task.tenant_id,
        model=task.model,
        lane=task.lane,
        state=state,
        attempt=event.attempt,
        level=task.priority,
        submitted_at=task.submitted_at,
        ready_at=ready_at,
        start_deadline=task.start_deadline,
        finish_deadline=task.finish_deadline,
        predicted_seconds=task.predicted.gpu_seconds,
        spent_seconds=_spent_seconds(event),
        worker=event.data.worker or "",
        document="" if state is WorkState.ENDED else encode(task).decode(),
    )


def _state(state: TaskState) -> WorkState:
    if state.is_final:
        return WorkState.ENDED
    return WorkState.RUNNING if state is TaskState.RUNNING else WorkState.WAITING


def _spent_seconds(event: TaskEvent) -> float:
    outcome = event.data.outcome
    if outcome is None or outcome.started_at is None:
        return 0.0
    return max(0.0, (outcome.ended_at - outcome.started_at).total_seconds())
