"""What became of each attempt of a task. Pure; events may repeat and come in any order, and the result is the same."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from shared.domain.task import EventType, TaskState

if TYPE_CHECKING:
    from datetime import datetime

    from shared.contracts.event import TaskEvent
    from shared.contracts.outcome import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt: running, retrying once the next one was to follow it, or with the task's end.

    Its start is unknown where nothing told it, as with an end that came while the task waited.
    """

    task_id: str
    attempt: int
    state: TaskState
    worker: str | None = None
    execution: str | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    error_code: str | None = None

    @property
    def was_made(self) -> bool:
        """Whether it was one: a task may end without an attempt."""
        return self.started_at is not None or not self.state.is_final


def told_attempt(event: TaskEvent) -> Attempt | None:
    """What one event alone tells of an attempt: its start, or its end."""
    if event.data.outcome is not None:
        return _ended(event.data.outcome)
    if event.type is EventType.STARTED:
        return Attempt(
            task_id=event.task_id,
            attempt=event.attempt,
            state=TaskState.RUNNING,
            worker=event.data.worker,
            execution=event.data.execution,
            started_at=event.at,
        )
    if event.type is EventType.RETRYING and event.attempt > 1:
        return Attempt(
            task_id=event.task_id,
            attempt=event.attempt - 1,
            state=TaskState.RETRYING,
            ended_at=event.at,
            error_code=event.data.error.code if event.data.error else None,
        )
    return None


def merged(known: Attempt | None, told: Attempt) -> Attempt:
    """Both together. Of two starts the earlier counts; of two ends the task's, or else the earlier."""
    if known is None:
        return told
    start, end = min(known, told, key=_start_order), min(known, told, key=_end_order)
    both = replace(end, worker=start.worker, execution=start.execution, started_at=start.started_at)
    return known if both == known else both


def _ended(outcome: Outcome) -> Attempt:
    ran = outcome.started_at is not None  # else who committed it is not who ran it
    return Attempt(
        task_id=outcome.task.task_id,
        attempt=outcome.attempt,
        state=outcome.state,
        worker=outcome.worker if ran else None,
        execution=outcome.execution if ran else None,
        started_at=outcome.started_at,
        ended_at=outcome.ended_at,
        error_code=outcome.error.code if outcome.error else None,
    )


def _start_order(attempt: Attempt) -> tuple[bool, float, str, str]:
    at = attempt.started_at.timestamp() if attempt.started_at else 0.0
    return attempt.started_at is None, at, attempt.worker or "", attempt.execution or ""


def _end_order(attempt: Attempt) -> tuple[bool, bool, float, str, str]:
    at = attempt.ended_at.timestamp() if attempt.ended_at else 0.0
    return not attempt.state.is_final, attempt.ended_at is None, at, attempt.state, attempt.error_code or ""
