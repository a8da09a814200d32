"""What an event means for the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.gateway.admission.redis_ledger import Note
from shared.domain.task import EventType, TaskState

if TYPE_CHECKING:
    from datetime import datetime

    from shared.contracts.event import TaskEvent
    from shared.contracts.open_tasks import OpenTask
    from shared.contracts.task import TaskMessage

# A task that nobody hears of any more is forgotten so long after its finish deadline.
_GRACE_MS: Final = 600_000
# An end is remembered for as long as an event of the task may still come.
_END_KEPT_MS: Final = 3_600_000
_SEQUENCES: Final = 10

_STATES: Final = {EventType.QUEUED: "waiting", EventType.STARTED: "running", EventType.RETRYING: "waiting"}
_STARTED: Final = 1


def note_of(event: TaskEvent, now: datetime) -> Note | None:
    """The event as the ledger's note, or None when it changes nothing there."""
    if event.data.outcome is not None:
        return _ended(event, now)
    task = event.data.task
    state = _STATES.get(event.type)
    if task is None or state is None:
        return None
    rank = event.attempt * _SEQUENCES + (_STARTED if event.type is EventType.STARTED else 0)
    return _note(task, state, rank)


def note_of_open(task: OpenTask) -> Note:
    """A task that has not ended, as its newest event would be noted."""
    running = task.state is TaskState.RUNNING
    return Note(
        task=task.task_id,
        tenant=task.tenant_id,
        model=task.model,
        state="running" if running else "waiting",
        rank=task.attempt * _SEQUENCES + (_STARTED if running else 0),
        seconds=task.gpu_seconds,
        level=task.priority,
        expiry=int(task.finish_deadline.timestamp() * 1000) + _GRACE_MS,
    )


def _ended(event: TaskEvent, now: datetime) -> Note | None:
    outcome = event.data.outcome
    if outcome is None:
        return None
    spent = (outcome.ended_at - outcome.started_at).total_seconds() if outcome.started_at is not None else 0.0
    left_ms = max(0, int((outcome.task.finish_deadline - now).total_seconds() * 1000))
    note = _note(outcome.task, "ended", event.attempt * _SEQUENCES + _SEQUENCES - 1)
    return Note(
        task=note.task,
        tenant=note.tenant,
        model=note.model,
        state=note.state,
        rank=note.rank,
        seconds=note.seconds,
        level=note.level,
        expiry=note.expiry,
        spent=max(0.0, spent),
        kept_ms=left_ms + _END_KEPT_MS,
    )


def _note(task: TaskMessage, state: str, rank: int) -> Note:
    return Note(
        task=task.task_id,
        tenant=task.tenant_id,
        model=task.model,
        state=state,
        rank=rank,
        seconds=task.predicted.gpu_seconds,
        level=task.priority,
        expiry=int(task.finish_deadline.timestamp() * 1000) + _GRACE_MS,
    )
