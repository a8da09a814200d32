"""The task that a replay makes of an old one. Pure: the same old task gives the same id, however often one asks."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID

from shared.domain.task import DEFAULT_MAX_ATTEMPTS

if TYPE_CHECKING:
    from shared.contracts.task import TaskMessage

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_VERSION: Final = 0x7 << 76
_VARIANT: Final = 0b10 << 62
# The bits of version and variant, and those above them, which hold the time.
_RANDOM: Final = (1 << 80) - 1 & ~(0xF << 76) & ~(0b11 << 62)


def retried_id(task_id: str, ended_at: datetime) -> str:
    """The id of the replay of a task that ended then: a UUIDv7 (RFC 9562, section 5.7).

    Its 48 bits of time are milliseconds of ``ended_at``, so that it sorts behind the old task; its 74 random bits are
    from a SHA-256 of the old id.
    """
    milliseconds = (ended_at - _EPOCH) // _MILLISECOND
    digest = int.from_bytes(hashlib.sha256(task_id.encode()).digest()[:10], "big")
    return str(UUID(int=milliseconds << 80 | _VERSION | _VARIANT | digest & _RANDOM))


def again(task: TaskMessage, new_id: str, now: datetime) -> TaskMessage:
    """The same work as a new task, with windows as long as the old one had."""
    return task.model_copy(
        update={
            "task_id": new_id,
            "retry_of": task.task_id,
            "attempt": 1,
            # Drains raise the old one's number: those were not its own.
            "max_attempts": min(task.max_attempts, DEFAULT_MAX_ATTEMPTS),
            "submitted_at": now,
            "start_deadline": now + (task.start_deadline - task.submitted_at),
            "finish_deadline": now + (task.finish_deadline - task.submitted_at),
        }
    )
