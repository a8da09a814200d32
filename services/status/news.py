"""What those who follow tasks are told of an event. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.contracts.base import Contract, ModelId, TaskId, TenantId, Timestamp
from shared.contracts.event import Progress
from shared.contracts.outcome import ErrorInfo
from shared.domain.task import EventType, TaskState

if TYPE_CHECKING:
    from services.status.view import TaskView
    from shared.contracts.event import TaskEvent


class News(Contract):
    """One step of one task, without what was asked for. ``artifacts`` is how many there are."""

    task_id: TaskId
    tenant_id: TenantId
    model: ModelId | None = None
    type: EventType
    state: TaskState
    attempt: int
    sequence: int
    at: Timestamp
    progress: Progress | None = None
    error: ErrorInfo | None = None
    delay_seconds: float | None = None
    artifacts: int = 0


@dataclass(frozen=True, slots=True)
class LoggedNews:
    """News at its place among all others: positions ascend in the order in which readers come to see them."""

    position: int
    news: News


def news_of(event: TaskEvent, before: TaskView | None, after: TaskView) -> News | None:
    """The news that an event is, or None where it tells nothing new: it was repeated, or came late."""
    if before is not None and (before.attempt, before.sequence, before.state) == (
        after.attempt,
        after.sequence,
        after.state,
    ):
        return None
    return News(
        task_id=event.task_id,
        tenant_id=event.tenant_id,
        model=after.submission.model if after.submission else None,
        type=event.type,
        state=after.state,
        attempt=event.attempt,
        sequence=event.sequence,
        at=event.at,
        progress=event.data.progress,
        error=after.error,
        delay_seconds=event.data.delay_seconds,
        artifacts=len(after.artifacts),
    )
