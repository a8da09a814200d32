"""How the status service ends a task: mark, outcome, event. Dying between any two repeats work and harms nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shared.contracts.event import ended_event
from shared.contracts.outcome import Claim, ErrorInfo, Outcome
from shared.domain.settle import ClaimMark
from shared.domain.task import TaskState
from shared.ids import new_execution_id
from shared.messaging import messages

if TYPE_CHECKING:
    from datetime import datetime

    from shared.clock import Clock
    from shared.contracts.task import TaskMessage
    from shared.messaging.ports import Publisher
    from shared.storage.records import TaskRecords

PUBLISH_SECONDS: Final = 10.0


class Ending:
    """Ends tasks in the name of one process, ``author``. Methods raise BrokerError or StorageError."""

    def __init__(self, *, records: TaskRecords, publisher: Publisher, clock: Clock, author: str) -> None:
        self._records = records
        self._publisher = publisher
        self._clock = clock
        self._author = author

    def expiry_mark(self, task: TaskMessage) -> Claim:
        """The claim that keeps an attempt from being started; it is still to be written."""
        return Claim(
            task_id=task.task_id,
            attempt=task.attempt,
            execution=new_execution_id(),
            worker=self._author,
            at=self._clock(),
            run_budget_seconds=0,
            mark=ClaimMark.EXPIRED,
        )

    def expire(self, task: TaskMessage) -> Outcome:
        """End a task whose attempt bears an expiry mark. Returns the outcome that stands."""
        if task.attempt == 1:
            error = ErrorInfo(code="expired", message="the task did not start before its start deadline")
            return self.end(task, TaskState.EXPIRED, error)
        error = ErrorInfo(code="deadline_exceeded", message="the task could not finish before its finish deadline")
        return self.end(task, TaskState.FAILED, error)

    def end(self, task: TaskMessage, state: TaskState, error: ErrorInfo) -> Outcome:
        """Commit an end and tell the one that stands."""
        standing = self.commit(task, state, error)
        self.tell(standing)
        return standing

    def commit(
        self, task: TaskMessage, state: TaskState, error: ErrorInfo, *, started_at: datetime | None = None
    ) -> Outcome:
        """Commit an end, and tell nobody. Returns the outcome that stands."""
        outcome = Outcome.model_validate(
            {
                "task": task,
                "state": state,
                "attempt": task.attempt,
                "execution": new_execution_id(),
                "worker": self._author,
                "started_at": started_at,
                "ended_at": self._clock(),
                "error": error,
            }
        )
        return self._records.commit(outcome)

    def tell(self, outcome: Outcome) -> None:
        """Publish the event of an outcome (again: it is the same event)."""
        self._publisher.publish(messages.event(ended_event(outcome)), timeout=PUBLISH_SECONDS)
