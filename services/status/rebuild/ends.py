"""What the bucket knows of ended tasks, as events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shared.contracts.event import ended_event, started_event
from shared.domain.errors import DecodeError
from shared.domain.settle import ClaimMark
from shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Executor

    from shared.contracts.event import TaskEvent
    from shared.contracts.outcome import Outcome
    from shared.storage.records import TaskRecords

log = get_logger(__name__)

# Drains give attempts back, so there is no other bound; the latest ones tell the most.
MOST_ATTEMPTS: Final = 20


class EndReader:
    """Reads the ends of many tasks side by side. Methods raise StorageError."""

    def __init__(self, records: TaskRecords, beside: Executor) -> None:
        self._records = records
        self._beside = beside

    def read(self, task_ids: Sequence[str]) -> list[list[TaskEvent] | None]:
        """The events of each task, the end first; None where its outcome cannot be read, empty where it is gone."""
        return list(self._beside.map(self._read, task_ids))

    def _read(self, task_id: str) -> list[TaskEvent] | None:
        try:
            outcome = self._records.outcome(task_id)
            return [] if outcome is None else [ended_event(outcome), *self._starts(outcome)]
        except DecodeError as exc:
            log.warning("outcome_unreadable", task_id=task_id, error_code=exc.code, error_message=exc.message)
            return None

    def _starts(self, outcome: Outcome) -> list[TaskEvent]:
        """The starts that the outcome does not tell: those of earlier attempts, and of one that ended elsewhere."""
        told = outcome.started_at is not None
        first = max(1, outcome.attempt - MOST_ATTEMPTS + 1)
        starts = []
        for attempt in range(first, outcome.attempt + (0 if told else 1)):
            claim = self._records.find_claim(outcome.task.task_id, attempt)
            if claim is not None and claim.mark is ClaimMark.RUN:
                task = outcome.task.model_copy(update={"attempt": attempt})
                starts.append(started_event(task, worker=claim.worker, execution=claim.execution, at=claim.at))
        return starts
