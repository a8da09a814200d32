"""What computes: one task, or several as rows of one computation, and whatever ends it before its time."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from services.worker.companions import as_one
from services.worker.errors import BatchFailedError, DeadlineExceededError, DrainedError, TaskCancelledError
from services.worker.job import Job, Limits
from services.worker.news import TaskNews
from shared.contracts.event import started_event
from shared.domain.errors import TaskError
from shared.domain.prediction import run_budget_seconds
from shared.logging import bound, get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from services.worker import protocol
    from services.worker.backends.base import GenerationRequest
    from services.worker.ports import EventSink, Plan, Runner
    from services.worker.precedence import Precedence
    from services.worker.settling import Execution
    from shared.clock import Clock
    from shared.contracts.task import TaskMessage
    from shared.domain.errors import AtelierError

log = get_logger(__name__)


@dataclass(slots=True)
class Running:
    """An execution whose job is in the child, or has left it.

    ``beside`` are those that are computed together with it, as further rows of the same job. ``lesson`` is the task
    that its cost is one of: that of all rows, or None where another row teaches. ``withdrawn``: what ended it alone.
    """

    execution: Execution
    job: Job
    folder: Path
    news: Callable[[str], None]
    plan: Plan
    lesson: TaskMessage | None
    row: int = 0
    beside: tuple[Running, ...] = ()
    withdrawn: TaskError | None = None
    error: AtelierError | None = None
    computed: protocol.Computed | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """How long a run may take that makes progress, and how long it may go without, in seconds."""

    max_run_seconds: float
    silence_floor_seconds: float


class Computing:
    """Knows what computes at the moment. ``compute`` belongs to the main thread."""

    def __init__(self, runner: Runner, events: EventSink, precedence: Precedence, clock: Clock, bounds: Bounds) -> None:
        self._runner = runner
        self._events = events
        self._precedence = precedence
        self._clock = clock
        self._bounds = bounds
        self._current: Running | None = None
        self._current_lock = threading.Lock()

    def cancel(self, task_id: str) -> None:
        """Stop that task, if it is the one that computes. Any thread may call this."""
        self._interrupt(TaskCancelledError("the task was cancelled"), task_id)

    def interrupt(self, error: TaskError) -> None:
        """Stop whatever computes. Any thread may call this."""
        self._interrupt(error, None)

    def _interrupt(self, error: TaskError, task_id: str | None) -> None:
        with self._current_lock:
            current = self._current
            rows = () if current is None else (current, *current.beside)
            meant = [row for row in rows if task_id in {None, row.execution.task.task_id}]
            for row in meant:
                row.withdrawn = row.withdrawn or error
            # One of several goes on with the others, and what becomes of it is dropped.
            over = bool(meant) and all(row.withdrawn is not None for row in rows)
        if current is not None and over:
            self._runner.interrupt(current.job, error)

    def prepare(self, execution: Execution, folder: Path, plan: Plan) -> Running:
        """What a claimed execution needs to be computed, alone or beside another one."""
        task = execution.task
        news = TaskNews(task, self._events, self._clock)
        job = Job(job_id=execution.execution_id, context=task.log_context(), on_progress=news.heard)
        return Running(execution=execution, job=job, folder=folder, news=news.reached, plan=plan, lesson=task)

    def compute(self, running: Running, requests: Sequence[GenerationRequest]) -> Running:
        """Compute it and what is beside it; ``requests`` are theirs, in this order."""
        rows = (running, *running.beside)
        together = as_one(*(row.execution.task for row in rows))
        running.job.on_progress = partial(_tell_each, [row.job.on_progress for row in rows])
        for number, row in enumerate(rows):
            row.row, row.job, row.lesson = number, running.job, None if number else together
        self._runner.begin(running.job, *requests, tier=running.plan.tier)
        began = time.monotonic()
        with self._current_lock:
            self._current = running
        self._precedence.done()
        # Told while the child begins, not before it: the child's first progress may pass the news of its start.
        for row in rows:
            self._tell_started(row, len(rows))
        try:
            computed = self._runner.wait_computed(running.job, self._limits(together, running.plan))
        except TaskError as exc:
            self._fail(rows, exc)
        else:
            running.computed = computed
        finally:
            with self._current_lock:
                self._current = None
        for row in rows:
            if len(rows) > 1 and isinstance(row.withdrawn, TaskCancelledError):
                row.error = row.withdrawn
            row.seconds = time.monotonic() - began
        return running

    def _tell_started(self, row: Running, together: int) -> None:
        task, claim = row.execution.task, row.execution.claim
        with bound(**task.log_context()):
            log.info("task_started", execution=claim.execution, together=together)
        self._events.offer(started_event(task, worker=claim.worker, execution=claim.execution, at=claim.at))

    def _fail(self, rows: tuple[Running, ...], error: TaskError) -> None:
        """Alone, the task has its error. Of several nobody knows which one is to blame: each is tried again, alone."""
        for row in rows:
            row.error = self._blame(row.execution.task, error)
            if len(rows) > 1 and row.error is error and not isinstance(error, DrainedError):
                row.error = BatchFailedError.of(error)

    def _limits(self, task: TaskMessage, plan: Plan) -> Limits:
        remaining = (task.finish_deadline - self._clock()).total_seconds()
        budget = budget_seconds(task, plan)
        per_step = budget / (task.params.steps * task.params.count)
        return Limits(
            # A model that is loaded anew between tasks gives no sign meanwhile.
            silence_seconds=max(self._bounds.silence_floor_seconds, per_step) + self._runner.load_seconds,
            total_seconds=min(budget, max(0.0, remaining)),
            most_seconds=min(self._bounds.max_run_seconds, max(0.0, remaining)),
        )

    def _blame(self, task: TaskMessage, error: TaskError) -> AtelierError:
        # Whatever stopped it, a task that is past its finish deadline must not be tried again.
        if self._clock() >= task.finish_deadline and not isinstance(error, TaskCancelledError):
            return DeadlineExceededError("the task did not finish before its finish deadline")
        return error


def budget_seconds(task: TaskMessage, plan: Plan) -> float:
    """How long a run may take before it is ended."""
    return run_budget_seconds(max(task.predicted.gpu_seconds, plan.seconds))


def _tell_each(listeners: Sequence[Callable[[protocol.Progress], None]], word: protocol.Progress) -> None:
    """What is told of a job is told of each of its rows; a preview is one of the first row alone."""
    listeners[0](word)
    for listener in listeners[1:]:
        listener(replace(word, preview=None))
