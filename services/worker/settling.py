"""The end of a delivery: outcome, event, ack, in this order, and every other fate that a delivery can have.

Dying between any two steps is harmless: the broker redelivers, the outcome is found, its event is repeated (it is the
same event, with the same id), and the delivery is acked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from services.worker.errors import DeadlineExceededError, ReportedError
from shared.contracts.cache import reused
from shared.contracts.dead import letter_of_task
from shared.contracts.event import ended_event, retrying_event
from shared.contracts.outcome import Claim, ErrorInfo, Outcome
from shared.domain.errors import AttemptsExhaustedError, StorageError
from shared.domain.settle import COPY_WAIT_SECONDS, AfterFailure, ClaimMark, decide_after_failure, retry_delay_seconds
from shared.domain.task import TaskState
from shared.ids import new_execution_id
from shared.logging import get_logger
from shared.messaging import messages
from shared.storage.attempts import attempts_of
from shared.storage.records import artifact_prefix

if TYPE_CHECKING:
    from shared.clock import Clock
    from shared.contracts.task import TaskMessage
    from shared.domain.errors import AtelierError
    from shared.messaging.ports import Delivery, Publisher, Settler
    from shared.storage.records import TaskRecords

log = get_logger(__name__)

PUBLISH_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """One claimed attempt of one delivery in this process."""

    delivery: Delivery
    task: TaskMessage
    claim: Claim

    @property
    def execution_id(self) -> str:
        """The claim's random id."""
        return self.claim.execution

    @property
    def prefix(self) -> str:
        """Where its artifacts go."""
        return artifact_prefix(self.task.task_id, self.task.attempt, self.claim.execution)


class Settling:
    """Every fate of a delivery. Methods raise BrokerError or StorageError when a step before the ack is impossible."""

    def __init__(
        self, *, records: TaskRecords, publisher: Publisher, settler: Settler, clock: Clock, worker_id: str
    ) -> None:
        self._records = records
        self._publisher = publisher
        self._settler = settler
        self._clock = clock
        self._worker_id = worker_id

    def end(self, execution: Execution, outcome: Outcome) -> Outcome:
        """Commit the outcome of an execution, tell everybody, ack. Returns the outcome that stands."""
        standing = self._records.commit(outcome)
        if standing.execution != execution.execution_id:
            log.info("outcome_lost", winner=standing.execution, state=standing.state)
            self._take_back(execution)
        self.repeat(execution.delivery, standing)
        return standing

    def repeat(self, delivery: Delivery, outcome: Outcome) -> None:
        """The task has ended: tell it (again), then ack."""
        self._publisher.publish(messages.event(ended_event(outcome)), timeout=PUBLISH_SECONDS)
        self._settler.ack(delivery)
        log.info("task_settled", state=outcome.state, outcome_attempt=outcome.attempt)

    def reuse(self, delivery: Delivery, task: TaskMessage, made: Outcome) -> None:
        """Another task has done the same work: end this one with its artifacts."""
        outcome = reused(task, made, worker=self._worker_id, at=self._clock())
        log.info("task_reused", made_by=made.task.task_id)
        self.repeat(delivery, self._records.commit(outcome))

    def expire(self, delivery: Delivery, task: TaskMessage) -> Claim | None:
        """The task waited too long: mark its first attempt so that nobody starts it, and end it as expired.

        Returns the claim of a start that came in time, with which nothing is settled.
        """
        claim = self._records.claim(self._claim(task, ClaimMark.EXPIRED))
        if claim.mark is ClaimMark.RUN:
            return claim
        self.complete_expiry(delivery, task, claim)
        return None

    def complete_expiry(self, delivery: Delivery, task: TaskMessage, claim: Claim) -> None:
        """Whoever finds an expiry mark finishes what it began."""
        if task.attempt == 1:
            error = ErrorInfo(code="expired", message="the task did not start before its start deadline")
            outcome = self._ended(task, TaskState.EXPIRED, claim.execution, error)
        else:
            late = DeadlineExceededError("the task could not finish before its finish deadline")
            outcome = self._ended(
                task, TaskState.FAILED, claim.execution, ErrorInfo(code=late.code, message=late.message)
            )
        self.repeat(delivery, self._records.commit(outcome))

    def fail_unstarted(self, delivery: Delivery, task: TaskMessage, execution_id: str, error: AtelierError) -> None:
        """End a task that cannot run any more as failed."""
        info = ErrorInfo(code=error.code, message=error.message)
        self.repeat(delivery, self._records.commit(self._ended(task, TaskState.FAILED, execution_id, info)))

    def hand_on(self, delivery: Delivery, *, seconds: int) -> None:
        """Let the same message come again later; this burns no attempt."""
        self._publisher.publish(messages.delayed_copy(delivery, seconds), timeout=PUBLISH_SECONDS)
        self._settler.ack(delivery)
        log.info("delivery_deferred", seconds=seconds)

    def next_attempt(self, delivery: Delivery, task: TaskMessage, error: ErrorInfo, *, delay_seconds: int) -> None:
        """This attempt is over without an outcome: queue the next one, then ack."""
        following = task.model_copy(update={"attempt": task.attempt + 1})
        now = self._clock()
        message = (
            messages.delayed_attempt(following, delay_seconds, now)
            if delay_seconds
            else messages.next_attempt(following, now)
        )
        news = messages.event(retrying_event(following, error, delay_seconds=delay_seconds, at=now))
        self._publisher.publish(message, news, timeout=PUBLISH_SECONDS)
        self._settler.ack(delivery)
        log.info("task_retrying", next_attempt=following.attempt, delay_seconds=delay_seconds, error_code=error.code)

    def give_up(
        self, delivery: Delivery, task: TaskMessage, execution_id: str, error: ErrorInfo, stack: str | None = None
    ) -> None:
        """No attempt is left: park the task for operators, then end it as failed."""
        attempts = attempts_of(self._records, task, error)
        parked = (self._worker_id, self._clock())
        letter = letter_of_task(task, error, attempts=attempts, parked=parked, stack=stack)
        self._publisher.publish(messages.dead(letter), timeout=PUBLISH_SECONDS)
        log.warning("task_parked", error_code=error.code)
        self.repeat(delivery, self._records.commit(self._ended(task, TaskState.FAILED, execution_id, error)))

    def fail(self, execution: Execution, error: AtelierError, outcome: Outcome) -> None:
        """A claimed attempt failed: retry later, end as failed, or give up, as the rules say."""
        task, info = execution.task, ErrorInfo(code=error.code, message=error.message)
        fate = decide_after_failure(retryable=error.retryable, attempt=task.attempt, max_attempts=task.max_attempts)
        log.warning("attempt_failed", error_code=error.code, error_message=error.message, fate=fate)
        self._take_back(execution)
        if fate is AfterFailure.RETRY:
            delay = retry_delay_seconds(task.attempt, error.code)
            self.next_attempt(execution.delivery, task, info, delay_seconds=delay)
        elif fate is AfterFailure.PARK:
            stack = error.stack if isinstance(error, ReportedError) else None
            self.give_up(execution.delivery, task, execution.execution_id, info, stack)
        else:
            self.end(execution, outcome)

    def hand_back(self, execution: Execution, error: AtelierError) -> None:
        """This worker stops: another one makes the next attempt, and this one does not count."""
        task, info = execution.task, ErrorInfo(code=error.code, message=error.message)
        uncounted = task.model_copy(update={"max_attempts": task.max_attempts + 1})
        self._take_back(execution)
        self.next_attempt(execution.delivery, uncounted, info, delay_seconds=0)

    def exhausted(self, delivery: Delivery, task: TaskMessage) -> None:
        """The last allowed attempt was started and its worker died."""
        # An id of its own: the lost execution, should it live after all, must not take this outcome for its own.
        execution_id = new_execution_id()
        error = AttemptsExhaustedError(f"attempt {task.attempt} of {task.max_attempts} ended with its worker")
        self.give_up(delivery, task, execution_id, ErrorInfo(code=error.code, message=error.message))

    def give_back(self, delivery: Delivery) -> None:
        """Nothing was begun: put the message back to its place."""
        self._settler.requeue(delivery)

    def reject(self, delivery: Delivery, reason: str) -> None:
        """It cannot be read: the broker sends it to ``atelier.returned``, where it is parked with its reason."""
        self._settler.reject(delivery)
        log.warning("delivery_undecodable", error_message=reason)

    def defer_newer(self, delivery: Delivery) -> None:
        """A newer version wrote it: leave it to a newer worker, for as long as that takes."""
        self.hand_on(delivery, seconds=COPY_WAIT_SECONDS)
        log.info("delivery_newer_schema")

    def _take_back(self, execution: Execution) -> None:
        """Delete the artifacts of an attempt whose outcome is none, or lost.

        A store that is away must not keep the next attempt from being queued: the delivery would come back, find the
        claim of an execution that is no more, and count as one more death.
        """
        try:
            self._records.store.delete_prefix(execution.prefix)
        except StorageError as exc:
            log.warning("artifacts_left", prefix=execution.prefix, error_message=exc.message)

    def _claim(self, task: TaskMessage, mark: ClaimMark) -> Claim:
        return Claim(
            task_id=task.task_id,
            attempt=task.attempt,
            execution=f"expiry-{self._worker_id}",
            worker=self._worker_id,
            at=self._clock(),
            run_budget_seconds=0,
            mark=mark,
        )

    def _ended(self, task: TaskMessage, state: TaskState, execution_id: str, error: ErrorInfo) -> Outcome:
        return Outcome.model_validate(
            {
                "task": task,
                "state": state,
                "attempt": task.attempt,
                "execution": execution_id,
                "worker": self._worker_id,
                "ended_at": self._clock(),
                "error": error,
            }
        )
