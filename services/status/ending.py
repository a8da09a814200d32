"""How the status service ends a task, or goes on with it where its worker is gone.

Mark, outcome, event: dying between any two repeats work and harms nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shared.contracts.dead import letter_of_task
from shared.contracts.event import ended_event, retrying_event
from shared.contracts.outcome import Claim, ErrorInfo, Outcome
from shared.domain.errors import AttemptsExhaustedError
from shared.domain.settle import ClaimFacts, ClaimMark, decide_contested
from shared.domain.task import TaskState
from shared.ids import new_execution_id
from shared.messaging import messages
from shared.storage.attempts import attempts_of

if TYPE_CHECKING:
    from datetime import datetime

    from shared.clock import Clock
    from shared.contracts.task import TaskMessage
    from shared.domain.settle import Claimant, Contested
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

    def judge(self, task: TaskMessage, claim: Claim, now: datetime) -> tuple[Contested, Claimant] | None:
        """What is to become of an attempt that somebody has claimed; None: the task has ended, which was told again."""
        claimant = self._records.claimant(claim, now)
        # Read after the lease: an execution that its lease lists no more has committed before.
        outcome = self._records.outcome(task.task_id)
        if outcome is not None:
            self.tell(outcome)
            return None
        facts = ClaimFacts(
            mark=claim.mark,
            age_seconds=(now - claim.at).total_seconds(),
            budget_seconds=claim.run_budget_seconds,
            claimant=claimant,
        )
        decision = decide_contested(facts, redelivered=False, attempt=task.attempt, max_attempts=task.max_attempts)
        return decision, claimant

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

    def next_attempt(self, task: TaskMessage) -> None:
        """The task's attempt was claimed by a worker that is gone: queue the next one, and tell it."""
        following = task.model_copy(update={"attempt": task.attempt + 1})
        now = self._clock()
        error = ErrorInfo(code="worker_lost", message=f"attempt {task.attempt} did not end within its run budget")
        news = retrying_event(following, error, delay_seconds=0, at=now)
        self._publisher.publish(messages.next_attempt(following, now), messages.event(news), timeout=PUBLISH_SECONDS)

    def give_up(self, task: TaskMessage) -> ErrorInfo:
        """The same of the last attempt: park the task for operators, then end it. Returns why."""
        exhausted = AttemptsExhaustedError(f"attempt {task.attempt} of {task.max_attempts} ended with its worker")
        error = ErrorInfo(code=exhausted.code, message=exhausted.message)
        attempts = attempts_of(self._records, task, error)
        letter = letter_of_task(task, error, attempts=attempts, parked=(self._author, self._clock()))
        self._publisher.publish(messages.dead(letter), timeout=PUBLISH_SECONDS)
        self.end(task, TaskState.FAILED, error)
        return error

    def tell(self, outcome: Outcome) -> None:
        """Publish the event of an outcome (again: it is the same event)."""
        self._publisher.publish(messages.event(ended_event(outcome)), timeout=PUBLISH_SECONDS)
