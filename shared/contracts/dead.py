"""What lies in ``tasks.dead``: work that was given up, with all that is known of why."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Annotated, ClassVar, Final

from pydantic import Base64Bytes, Field, model_validator

from shared.contracts.base import Contract, Message, Timestamp
from shared.contracts.outcome import ErrorInfo
from shared.contracts.task import TaskMessage

if TYPE_CHECKING:
    from datetime import datetime
    from typing import Self

DETAIL_CHARS: Final = 2000
# The end of a stack says what was raised, and where; that is the part which is kept.
STACK_CHARS: Final = 16_000


class DeadAttempt(Contract):
    """One attempt, as far as its claim told. Only the last one's error is known to whoever parks the task."""

    number: Annotated[int, Field(ge=1)]
    worker: str | None = None
    execution: str | None = None
    started_at: Timestamp | None = None
    error: ErrorInfo | None = None


class Origin(Contract):
    """Where a message that cannot be read came from."""

    exchange: str
    routing_key: str
    message_id: str | None = None


class DeadLetter(Message):
    """A task that nobody will try again by itself, or the raw ``body`` of a message that cannot be read."""

    current_schema: ClassVar[int] = 1

    reason: str
    detail: str
    parked_at: Timestamp
    parked_by: str
    task: TaskMessage | None = None
    body: Base64Bytes | None = None
    origin: Origin | None = None
    attempts: tuple[DeadAttempt, ...] = ()
    last_error: ErrorInfo | None = None
    stack: str | None = None

    @model_validator(mode="after")
    def _holds_something(self) -> Self:
        if self.task is None and self.body is None:
            message = "a dead letter needs a task or a body"
            raise ValueError(message)
        return self

    @property
    def message_id(self) -> str:
        """The task's id, or the id of the message that cannot be read (empty when it had none)."""
        if self.task is not None:
            return self.task.task_id
        return (self.origin.message_id if self.origin is not None else None) or ""


def letter_of_task(
    task: TaskMessage,
    error: ErrorInfo,
    *,
    attempts: tuple[DeadAttempt, ...],
    parked: tuple[str, datetime],
    stack: str | None = None,
) -> DeadLetter:
    """A task whose attempts are used up; ``parked`` is by whom, and when."""
    bounded = ErrorInfo(code=error.code, message=error.message[:DETAIL_CHARS])
    return DeadLetter(
        reason=bounded.code,
        detail=bounded.message,
        parked_by=parked[0],
        parked_at=parked[1],
        task=task,
        attempts=attempts,
        last_error=bounded,
        stack=stack[-STACK_CHARS:] if stack else None,
    )


def letter_of_body(body: bytes, error: ErrorInfo, *, origin: Origin, parked: tuple[str, datetime]) -> DeadLetter:
    """A message that cannot be read, byte for byte; ``parked`` is by whom, and when."""
    return DeadLetter(
        reason=error.code,
        detail=error.message[:DETAIL_CHARS],
        parked_by=parked[0],
        parked_at=parked[1],
        body=base64.b64encode(body),
        origin=origin,
    )
