"""A task as clients may see it, put together from its events."""

from __future__ import annotations

from pydantic import Field

from shared.contracts.base import Contract, ModelId, TaskId, TenantId, Timestamp
from shared.contracts.event import Progress
from shared.contracts.outcome import Artifact, ErrorInfo
from shared.contracts.task import Params, Predicted
from shared.domain.task import EventType, Lane, TaskState


class Submission(Contract):
    """What was asked for. Any event that carries the task tells it; until the first of those it is unknown."""

    model: ModelId
    lane: Lane
    params: Params
    submitted_at: Timestamp
    start_deadline: Timestamp
    finish_deadline: Timestamp
    predicted: Predicted | None = None
    callback: str | None = None
    callback_events: tuple[EventType, ...] | None = None
    retry_of: TaskId | None = None
    request_id: str | None = None
    traceparent: str | None = None


class Start(Contract):
    """The latest known start. ``rank`` is the attempt that started, or OUTCOME_RANK when the outcome tells it."""

    rank: int
    at: Timestamp
    worker: str


class TaskView(Contract):
    """The state of one task. ``attempt`` and ``sequence`` are the order of the event that it stems from.

    ``updated_at`` is that event's time; ``max_attempts`` and ``priority`` are the highest that any event named.
    ``timings`` are seconds; ``retried_as`` is the latest task that a replay made of this one.
    """

    task_id: TaskId
    tenant_id: TenantId
    state: TaskState
    attempt: int
    sequence: int
    updated_at: Timestamp
    max_attempts: int | None = None
    priority: int | None = None
    submission: Submission | None = None
    start: Start | None = None
    progress: Progress | None = None
    ended_at: Timestamp | None = None
    artifacts: tuple[Artifact, ...] = ()
    error: ErrorInfo | None = None
    timings: dict[str, float] = Field(default_factory=dict)
    receipt: dict[str, str | int | float] = Field(default_factory=dict)
    retried_as: TaskId | None = None
