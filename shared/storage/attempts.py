"""What the bucket's claims tell of a task's attempts, for those who give it up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shared.contracts.dead import DeadAttempt
from shared.domain.errors import DecodeError
from shared.logging import get_logger

if TYPE_CHECKING:
    from shared.contracts.outcome import Claim, ErrorInfo
    from shared.contracts.task import TaskMessage
    from shared.storage.records import TaskRecords

log = get_logger(__name__)

# Drains give attempts back, so there is no other bound; the latest ones tell the most.
MOST_ATTEMPTS: Final = 20


def attempts_of(records: TaskRecords, task: TaskMessage, last_error: ErrorInfo) -> tuple[DeadAttempt, ...]:
    """The latest attempts up to the task's own, which ended with ``last_error``. Raises StorageError."""
    first = max(1, task.attempt - MOST_ATTEMPTS + 1)
    found = []
    for number in range(first, task.attempt + 1):
        claim = _claim(records, task.task_id, number)
        error = last_error if number == task.attempt else None
        if claim is not None:
            at = claim.at
            found.append(
                DeadAttempt(number=number, worker=claim.worker, execution=claim.execution, started_at=at, error=error)
            )
        elif error is not None:
            found.append(DeadAttempt(number=number, error=error))
    return tuple(found)


def _claim(records: TaskRecords, task_id: str, number: int) -> Claim | None:
    try:
        return records.find_claim(task_id, number)
    except DecodeError as exc:
        # A history with a gap is better than a task that can never be parked.
        log.warning("claim_unreadable", task_id=task_id, claimed_attempt=number, error_message=exc.message)
        return None
