"""What services tell each other about a task. Events repeat and come late; ``(attempt, sequence)`` orders them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Final

import orjson
from pydantic import Field, model_validator

from shared.contracts.base import Contract, Message, TaskId, TenantId, Timestamp
from shared.contracts.outcome import ErrorInfo, Outcome
from shared.contracts.task import TaskMessage
from shared.domain.task import PREVIEW_MAX_CHARS, EventType, Phase, TaskState

if TYPE_CHECKING:
    from typing import Self

# An attempt's events in order: retrying (the news that it will come) 0, queued 0, started 1, progress 2 and up.
SEQUENCE_QUEUED: Final = 0
SEQUENCE_RETRYING: Final = 0
SEQUENCE_STARTED: Final = 1
SEQUENCE_ENDED: Final = 2**31 - 1


class Preview(Contract):
    """A small picture of how far the work has come, encoded in base64. Sides are pixels."""

    media_type: str
    data: Annotated[str, Field(max_length=PREVIEW_MAX_CHARS)]
    width: Annotated[int, Field(gt=0)]
    height: Annotated[int, Field(gt=0)]


class Progress(Contract):
    """Step ``step`` of ``steps`` within a phase; both are 0 in phases that have no steps."""

    phase: Phase
    step: int = 0
    steps: int = 0
    preview: Preview | None = None


class EventData(Contract):
    """What an event carries; which parts are there depends on its type (see ``REQUIRED``)."""

    task: TaskMessage | None = None
    worker: str | None = None
    execution: str | None = None
    progress: Progress | None = None
    error: ErrorInfo | None = None
    delay_seconds: float | None = None
    outcome: Outcome | None = None


REQUIRED: Final[dict[EventType, tuple[str, ...]]] = {
    EventType.QUEUED: ("task",),
    EventType.STARTED: ("task", "worker", "execution"),
    EventType.PROGRESS: ("progress",),
    EventType.RETRYING: ("error", "delay_seconds"),
    EventType.SUCCEEDED: ("outcome",),
    EventType.FAILED: ("outcome",),
    EventType.CANCELLED: ("outcome",),
    EventType.EXPIRED: ("outcome",),
}


class TaskEvent(Message):
    """One thing that happened to one task."""

    current_schema: ClassVar[int] = 1

    event_id: str
    task_id: TaskId
    tenant_id: TenantId
    type: EventType
    attempt: Annotated[int, Field(ge=1)]
    sequence: Annotated[int, Field(ge=0)]
    at: Timestamp
    data: EventData
    request_id: str | None = None
    traceparent: str | None = None

    @model_validator(mode="after")
    def _has_required_data(self) -> Self:
        missing = [name for name in REQUIRED[self.type] if getattr(self.data, name) is None]
        if missing:
            message = f"a {self.type} event needs data.{missing[0]}"
            raise ValueError(message)
        return self

    @property
    def routing_key(self) -> str:
        """``<type>.<tenant>``, the key within ``atelier.events``."""
        return f"{self.type}.{self.tenant_id}"


def event_id(task_id: str, event_type: EventType, attempt: int, sequence: int) -> str:
    """The same thing reported twice has the same id, whoever reports it."""
    return f"{task_id}:{attempt}:{sequence}:{event_type}"


def queued_event(task: TaskMessage) -> TaskEvent:
    """The event that goes out with a new task."""
    return _event(task, EventType.QUEUED, SEQUENCE_QUEUED, task.submitted_at, EventData(task=task))


def encode_queued_event(task: TaskMessage, encoded: bytes) -> bytes:
    """``encode(queued_event(task))``, given ``encode(task)``: a submit sends both, and dumps its task once."""
    event: dict[str, object] = {
        "schema": TaskEvent.current_schema,
        "event_id": event_id(task.task_id, EventType.QUEUED, task.attempt, SEQUENCE_QUEUED),
        "task_id": task.task_id,
        "tenant_id": task.tenant_id,
        "type": EventType.QUEUED,
        "attempt": task.attempt,
        "sequence": SEQUENCE_QUEUED,
        "at": task.submitted_at,
        "data": {"task": orjson.Fragment(encoded)},
    }
    if task.request_id is not None:
        event["request_id"] = task.request_id
    if task.traceparent is not None:
        event["traceparent"] = task.traceparent
    return orjson.dumps(event, option=orjson.OPT_UTC_Z)


def started_event(task: TaskMessage, *, worker: str, execution: str, at: Timestamp) -> TaskEvent:
    """An attempt was claimed and starts."""
    data = EventData(task=task, worker=worker, execution=execution)
    return _event(task, EventType.STARTED, SEQUENCE_STARTED, at, data)


def progress_event(task: TaskMessage, progress: Progress, *, sequence: int, at: Timestamp) -> TaskEvent:
    """The ``sequence``-th news (from 2) of a running attempt."""
    return _event(task, EventType.PROGRESS, sequence, at, EventData(progress=progress))


def retrying_event(next_attempt: TaskMessage, error: ErrorInfo, *, delay_seconds: float, at: Timestamp) -> TaskEvent:
    """The attempt before ``next_attempt`` ended without an outcome; the task waits for its next one."""
    data = EventData(task=next_attempt, error=error, delay_seconds=delay_seconds)
    return _event(next_attempt, EventType.RETRYING, SEQUENCE_RETRYING, at, data)


_TYPE_OF_STATE: Final[dict[TaskState, EventType]] = {
    TaskState.SUCCEEDED: EventType.SUCCEEDED,
    TaskState.FAILED: EventType.FAILED,
    TaskState.CANCELLED: EventType.CANCELLED,
    TaskState.EXPIRED: EventType.EXPIRED,
}


def ended_event(outcome: Outcome) -> TaskEvent:
    """The event of an outcome. Anybody who finds the outcome may repeat it: it is the same event each time."""
    event_type = _TYPE_OF_STATE[outcome.state]
    task = outcome.task.model_copy(update={"attempt": outcome.attempt})
    return _event(task, event_type, SEQUENCE_ENDED, outcome.ended_at, EventData(outcome=outcome))


def _event(task: TaskMessage, event_type: EventType, sequence: int, at: Timestamp, data: EventData) -> TaskEvent:
    # Built from validated parts on a hot path (the gateway's submit): the fields need no second validation.
    return TaskEvent.model_construct(
        schema_version=TaskEvent.current_schema,
        event_id=event_id(task.task_id, event_type, task.attempt, sequence),
        task_id=task.task_id,
        tenant_id=task.tenant_id,
        type=event_type,
        attempt=task.attempt,
        sequence=sequence,
        at=at,
        data=data,
        request_id=task.request_id,
        traceparent=task.traceparent,
    )
