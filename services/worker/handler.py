"""One delivery from arrival to the point where the device is free again; what follows is the finisher's."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from services.worker.backends.base import GenerationRequest
from services.worker.errors import DeadlineExceededError
from services.worker.settling import Execution
from services.worker.supervisor import Job, Limits
from shared.contracts.base import decode
from shared.contracts.event import Progress, progress_event, started_event
from shared.contracts.outcome import Claim, ErrorInfo
from shared.contracts.task import TaskMessage
from shared.domain.errors import AtelierError, DecodeError, NewerSchemaError, RunnerCrashedError, TaskError
from shared.domain.settle import (
    COPY_WAIT_SECONDS,
    RETRY_DELAYS_SECONDS,
    ClaimFacts,
    Contested,
    Start,
    decide_contested,
    decide_start,
)
from shared.domain.task import Phase
from shared.ids import new_execution_id
from shared.logging import bind, get_logger, unbind_all

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from services.worker import protocol
    from services.worker.ports import EventSink, Runner
    from services.worker.sandbox import Sandboxes
    from services.worker.settling import Settling
    from shared.clock import Clock
    from shared.messaging.ports import Delivery
    from shared.storage.records import TaskRecords

log = get_logger(__name__)

_FIRST_PROGRESS_SEQUENCE: Final = 2
# A task may take this many times its predicted seconds, and never less than the floor.
_BUDGET_FACTOR: Final = 10.0
_BUDGET_FLOOR_SECONDS: Final = 120.0
_SILENCE_FLOOR_SECONDS: Final = 60.0


@dataclass(slots=True)
class Running:
    """An execution whose job is in the child, or has left it."""

    execution: Execution
    job: Job
    folder: Path
    news: Callable[[str], None]
    error: AtelierError | None = None


class TaskHandler:
    """Decides what a delivery needs and, when that is a start, claims and computes it."""

    def __init__(
        self,
        *,
        records: TaskRecords,
        settling: Settling,
        runner: Runner,
        events: EventSink,
        sandboxes: Sandboxes,
        identity: WorkerIdentity,
    ) -> None:
        self._records = records
        self._settling = settling
        self._runner = runner
        self._events = events
        self._sandboxes = sandboxes
        self._identity = identity
        self._clock = identity.clock
        self._alive: set[str] = set()

    def handle(self, delivery: Delivery) -> Running | None:
        """Settle the delivery, or compute its task and return it to be finished.

        Raises BrokerError, StorageError or WorkFolderError when it could not be settled. A task, claim or outcome that
        cannot be read goes back to the broker, from where the status service parks it.
        """
        unbind_all()
        try:
            return self._handle(delivery)
        except NewerSchemaError:
            self._settling.defer_newer(delivery)
        except DecodeError as exc:
            self._settling.reject(delivery, exc.message)
        return None

    def forget(self, execution: Execution) -> None:
        """The execution is settled and no longer lives in this process."""
        self._alive.discard(execution.execution_id)

    def _handle(self, delivery: Delivery) -> Running | None:
        task = decode(TaskMessage, delivery.body)
        bind(**task.log_context())
        log.info("delivery_taken", redelivered=delivery.redelivered, priority=delivery.priority)
        outcome = self._records.outcome(task.task_id)
        if outcome is not None:
            self._settling.repeat(delivery, outcome)
            return None
        start = decide_start(self._clock(), task.start_deadline, task.finish_deadline, task.attempt)
        if start is Start.EXPIRE:
            running = self._settling.expire(delivery, task)
            if running is not None:
                self._settle_contested(delivery, task, running)
        elif start is Start.DEADLINE:
            error = DeadlineExceededError("the task could not finish before its finish deadline")
            self._settling.fail_unstarted(delivery, task, new_execution_id(), error)
        else:
            return self._claim_and_compute(delivery, task)
        return None

    def _claim_and_compute(self, delivery: Delivery, task: TaskMessage) -> Running | None:
        mine = Claim(
            task_id=task.task_id,
            attempt=task.attempt,
            execution=new_execution_id(),
            worker=self._identity.worker_id,
            at=self._clock(),
            run_budget_seconds=self._budget_seconds(task),
        )
        # The folder comes before the claim, so that a full disk burns no attempt.
        folder = self._sandboxes.create(task.tenant_id, task.task_id, task.attempt, mine.execution)
        with ExitStack() as undo:
            undo.callback(self._sandboxes.remove, folder)
            standing = self._records.claim(mine)
            if standing.execution != mine.execution:
                self._settle_contested(delivery, task, standing)
                return None
            undo.pop_all()
        self._alive.add(mine.execution)
        return self._compute(Execution(delivery=delivery, task=task, claim=mine), folder)

    def _settle_contested(self, delivery: Delivery, task: TaskMessage, claim: Claim) -> None:
        facts = ClaimFacts(
            mark=claim.mark,
            age_seconds=(self._clock() - claim.at).total_seconds(),
            budget_seconds=claim.run_budget_seconds,
            alive_here=claim.execution in self._alive,
        )
        decision = decide_contested(
            facts, redelivered=delivery.redelivered, attempt=task.attempt, max_attempts=task.max_attempts
        )
        log.info("claim_contested", decision=decision, claimed_by=claim.worker, age_seconds=facts.age_seconds)
        if decision is Contested.COMPLETE_EXPIRY:
            self._settling.complete_expiry(delivery, task, claim)
        elif decision is Contested.WAIT_FOR_COPY:
            self._settling.hand_on(delivery, seconds=RETRY_DELAYS_SECONDS[0] if facts.alive_here else COPY_WAIT_SECONDS)
        elif decision is Contested.NEXT_ATTEMPT:
            died = RunnerCrashedError(f"attempt {task.attempt} ended with its worker")
            info = ErrorInfo(code="worker_lost", message=died.message)
            self._settling.next_attempt(delivery, task, info, delay_seconds=0)
        else:
            self._settling.exhausted(delivery, task)

    def _compute(self, execution: Execution, folder: Path) -> Running:
        task, claim = execution.task, execution.claim
        log.info("task_started", execution=claim.execution)
        started = started_event(task, worker=claim.worker, execution=claim.execution, at=claim.at)
        self._events.offer(started)
        job, news = self._job(execution)
        running = Running(execution=execution, job=job, folder=folder, news=news)
        self._runner.begin(job, _request(task, folder))
        try:
            self._runner.wait_computed(job, self._limits(task))
        except TaskError as exc:
            running.error = self._blame(task, exc)
        return running

    def _job(self, execution: Execution) -> tuple[Job, Callable[[str], None]]:
        task = execution.task
        sequence = _FIRST_PROGRESS_SEQUENCE

        def tell(progress: Progress) -> None:
            nonlocal sequence
            self._events.offer(progress_event(task, progress, sequence=sequence, at=self._clock()))
            sequence += 1

        def on_progress(word: protocol.Progress) -> None:
            tell(Progress(phase=Phase(word.phase), step=word.step, steps=word.steps))

        job = Job(job_id=execution.execution_id, context=task.log_context(), on_progress=on_progress)
        return job, lambda phase: tell(Progress(phase=Phase(phase)))

    def _budget_seconds(self, task: TaskMessage) -> float:
        return max(_BUDGET_FLOOR_SECONDS, _BUDGET_FACTOR * task.predicted.gpu_seconds)

    def _limits(self, task: TaskMessage) -> Limits:
        remaining = (task.finish_deadline - self._clock()).total_seconds()
        per_step = task.predicted.gpu_seconds / (task.params.steps * task.params.count)
        return Limits(
            silence_seconds=max(_SILENCE_FLOOR_SECONDS, _BUDGET_FACTOR * per_step),
            total_seconds=min(self._budget_seconds(task), max(0.0, remaining)),
        )

    def _blame(self, task: TaskMessage, error: TaskError) -> AtelierError:
        # Whatever stopped it, a task that is past its finish deadline must not be tried again.
        if self._clock() >= task.finish_deadline:
            return DeadlineExceededError("the task did not finish before its finish deadline")
        return error


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerIdentity:
    """Who works, and by which clock."""

    worker_id: str
    clock: Clock


def _request(task: TaskMessage, folder: Path) -> GenerationRequest:
    params = task.params
    return GenerationRequest(
        task_id=task.task_id,
        prompt=params.prompt,
        negative_prompt=params.negative_prompt,
        prompt_format=params.prompt_format,
        width=params.width,
        height=params.height,
        steps=params.steps,
        guidance=params.guidance,
        seeds=params.seeds,
        num_frames=params.num_frames,
        out_dir=folder,
    )
