"""The ends that a gateway writes itself: of work that was done before, and of a task that nobody confirmed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.gateway.errors import SubmitVoidedError
from shared.contracts.cache import reused
from shared.contracts.outcome import ErrorInfo, Outcome
from shared.domain.errors import DecodeError, StorageError
from shared.domain.task import TaskState
from shared.ids import new_execution_id
from shared.logging import get_logger

if TYPE_CHECKING:
    from shared.clock import Clock
    from shared.contracts.task import TaskMessage
    from shared.storage.records import TaskRecords

log = get_logger(__name__)

_WORKER: Final = "gateway"


class Ends:
    """Methods return the outcome that stands, ours or an earlier one; None where nobody can tell whether one does."""

    def __init__(self, records: TaskRecords, clock: Clock) -> None:
        self._records = records
        self._clock = clock

    def reuse(self, task: TaskMessage, made: Outcome) -> Outcome | None:
        """End a task with the result of the same work."""
        return self._commit(reused(task, made, worker=_WORKER, at=self._clock()))

    def void(self, task: TaskMessage) -> Outcome | None:
        """End a task that may lie in its queue, so that it is never computed: its client will ask anew."""
        error = SubmitVoidedError()
        outcome = Outcome(
            task=task,
            state=TaskState.CANCELLED,
            attempt=task.attempt,
            execution=new_execution_id(),
            worker=_WORKER,
            ended_at=self._clock(),
            error=ErrorInfo(code=error.code, message=error.message),
        )
        return self._commit(outcome)

    def _commit(self, outcome: Outcome) -> Outcome | None:
        try:
            return self._records.commit(outcome)
        except (StorageError, DecodeError) as exc:
            log.warning("end_not_written", state=outcome.state, error_code=exc.code, error_message=exc.message)
            return None
