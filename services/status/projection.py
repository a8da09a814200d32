"""From events to a view. Pure; events may repeat and come in any order, and the result is the same.

That holds since each part of a view has a source with the highest rank, which wins whenever it comes. The state stems
from the end, or else from the event of the highest (attempt, sequence, time); the start from the outcome, or else from
the latest attempt that started; what was asked for from any event that tells it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from services.status.view import Start, Submission, TaskView
from shared.contracts.event import SEQUENCE_ENDED
from shared.domain.task import STATE_AFTER, EventType

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from shared.contracts.event import Progress, TaskEvent
    from shared.contracts.task import TaskMessage

OUTCOME_RANK: Final = SEQUENCE_ENDED


def concerned(event: TaskEvent) -> set[str]:
    """The tasks whose views an event may change: its own, and the one that it is the replay of."""
    task = _task_of(event)
    return {event.task_id} if task is None or task.retry_of is None else {event.task_id, task.retry_of}


def apply_to(views: MutableMapping[str, TaskView], event: TaskEvent) -> None:
    """Apply an event to the views, among which are those of the tasks that it concerns, as far as there are any."""
    views[event.task_id] = apply(views.get(event.task_id), event)
    task = _task_of(event)
    if task is None or task.retry_of in (None, event.task_id):
        return
    old = views.get(task.retry_of or "")
    # Any event that tells it will do, so that one which came before its old task had a row is made up for.
    if old is not None and old.tenant_id == event.tenant_id and event.task_id > (old.retried_as or ""):
        views[old.task_id] = old.model_copy(update={"retried_as": event.task_id})


def apply(view: TaskView | None, event: TaskEvent) -> TaskView:
    """The view after one more event. An event that is known or outdated leaves it as it is."""
    changes = _facts(view, event)
    if view is None or _supersedes(event, view):
        changes |= _head(event)
    if view is None:
        return TaskView(task_id=event.task_id, tenant_id=event.tenant_id, **changes)
    return view.model_copy(update=changes) if changes else view


def _supersedes(event: TaskEvent, view: TaskView) -> bool:
    if view.state.is_final:
        return False
    # A task has one end: it stands above everything, even when a later attempt is already under way.
    ends = STATE_AFTER[event.type].is_final
    # Two that noticed the same death tell the same retry at different times.
    order, known = (event.attempt, event.sequence, event.at), (view.attempt, view.sequence, view.updated_at)
    return ends or order > known


def _head(event: TaskEvent) -> dict[str, Any]:
    """What only the latest event decides."""
    outcome, progress = event.data.outcome, event.data.progress
    head: dict[str, Any] = {
        "state": STATE_AFTER[event.type],
        "attempt": event.attempt,
        "sequence": event.sequence,
        "updated_at": event.at,
        "progress": _kept(progress),
        "error": event.data.error,
    }
    if outcome is not None:
        head |= {
            "progress": None,
            "error": outcome.error,
            "ended_at": outcome.ended_at,
            "artifacts": outcome.artifacts,
            "timings": outcome.timings,
            "receipt": outcome.receipt,
        }
    return head


def _kept(progress: Progress | None) -> Progress | None:
    # A preview is for those who look on: it passes with the news.
    if progress is None or progress.preview is None:
        return progress
    return progress.model_copy(update={"preview": None})


def _facts(view: TaskView | None, event: TaskEvent) -> dict[str, Any]:
    """What an event adds even when it comes late."""
    facts: dict[str, Any] = {}
    if event.type is EventType.PROGRESS:
        return facts
    task = _task_of(event)
    if task is not None:
        facts |= _task_facts(view, task)
    start = _start_of(event)
    if start is not None and (view is None or view.start is None or start.rank > view.start.rank):
        facts["start"] = start
    return facts


def _task_of(event: TaskEvent) -> TaskMessage | None:
    return event.data.outcome.task if event.data.outcome is not None else event.data.task


def _task_facts(view: TaskView | None, task: TaskMessage) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    if view is None or view.submission is None:
        facts["submission"] = Submission.model_validate(task, from_attributes=True)
    # Both only ever grow: a drained attempt is given back with one more, a task that waits long is raised.
    if view is None or view.max_attempts is None or task.max_attempts > view.max_attempts:
        facts["max_attempts"] = task.max_attempts
    if view is None or view.priority is None or task.priority > view.priority:
        facts["priority"] = task.priority
    return facts


def _start_of(event: TaskEvent) -> Start | None:
    outcome = event.data.outcome
    if outcome is not None and outcome.started_at is not None:
        return Start(rank=OUTCOME_RANK, at=outcome.started_at, worker=outcome.worker)
    if event.type is EventType.STARTED and event.data.worker is not None:
        return Start(rank=event.attempt, at=event.at, worker=event.data.worker)
    return None
