"""A task of which nothing was heard, compared with the bucket: what it says is told again, or done.

The claim lets one of any number of copies start, and the outcome is written once, so that a mistake here costs a copy
and nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.status.ending import PUBLISH_SECONDS, Ending
from services.status.work import WorkState
from shared.contracts.event import started_event
from shared.contracts.outcome import ErrorInfo
from shared.domain.settle import Contested
from shared.domain.task import TaskState
from shared.messaging import messages

if TYPE_CHECKING:
    from services.status.work import Work
    from shared.clock import Clock
    from shared.contracts.outcome import Claim
    from shared.contracts.task import TaskMessage
    from shared.messaging.ports import Publisher
    from shared.storage.records import TaskRecords


RUNNING: Final = "running"
STARTED: Final = "started"


class Comparison:
    """Compares in the name of one process, ``author``. Methods raise BrokerError, StorageError or DecodeError."""

    def __init__(self, *, records: TaskRecords, publisher: Publisher, clock: Clock, author: str) -> None:
        self._records = records
        self._publisher = publisher
        self._clock = clock
        self._ending = Ending(records=records, publisher=publisher, clock=clock, author=author)

    def settle(self, work: Work, task: TaskMessage, *, lost: bool) -> str:
        """Do what is to be done; ``lost``: the broker has no message of the task any more. Returns its fate."""
        outcome = self._records.outcome(task.task_id)
        if outcome is not None:
            self._ending.tell(outcome)
            return "repeated"
        claim = self._latest_claim(task)
        if claim is not None:
            return self._settle_claimed(work, task.model_copy(update={"attempt": claim.attempt}), claim, lost=lost)
        if self._clock() >= task.finish_deadline:
            return self._too_late(task)
        if not lost:
            return "awaited"
        self._publisher.publish(messages.next_attempt(task, self._clock()), timeout=PUBLISH_SECONDS)
        return "republished"

    def _settle_claimed(self, work: Work, task: TaskMessage, claim: Claim, *, lost: bool) -> str:
        now = self._clock()
        judged = self._ending.judge(task, claim, now)
        if judged is None:
            return "repeated"
        decision, _ = judged
        if decision is Contested.COMPLETE_EXPIRY:
            return self._ending.expire(task).state
        if decision is not Contested.WAIT_FOR_COPY:
            if now >= task.finish_deadline:
                return self._too_late(task)
            if lost:
                return self._go_on(task, decision)
        if work.state is WorkState.RUNNING and work.attempt == claim.attempt:
            return RUNNING if decision is Contested.WAIT_FOR_COPY else "orphaned"
        news = started_event(task, worker=claim.worker, execution=claim.execution, at=claim.at)
        self._publisher.publish(messages.event(news), timeout=PUBLISH_SECONDS)
        return STARTED

    def _go_on(self, task: TaskMessage, decision: Contested) -> str:
        if decision is Contested.NEXT_ATTEMPT:
            self._ending.next_attempt(task)
        else:
            self._ending.give_up(task)
        return decision

    def _too_late(self, task: TaskMessage) -> str:
        error = ErrorInfo(code="deadline_exceeded", message="the task did not finish before its finish deadline")
        return self._ending.end(task, TaskState.FAILED, error).state

    def _latest_claim(self, task: TaskMessage) -> Claim | None:
        """The claim of the attempt that the view knows of, or of a later one."""
        found, attempt = None, task.attempt
        while (claim := self._records.find_claim(task.task_id, attempt)) is not None:
            found, attempt = claim, attempt + 1
        return found
