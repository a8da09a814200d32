"""What follows the computation: take the written files, store them, commit the outcome, tell, ack, clean up.

It runs in a thread of its own while the next task computes; at most one task is finishing at a time.
"""

from __future__ import annotations

import hashlib
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from pydantic import ValidationError

from services.worker.errors import (
    ArtifactsLostError,
    BatchFailedError,
    DrainedError,
    HostOutOfMemoryError,
    ReportedError,
    StoreTooLateError,
    TaskCancelledError,
)
from shared.contracts.outcome import Artifact, ErrorInfo, Outcome
from shared.domain.errors import AtelierError, BackendError, BrokerError, DecodeError, StorageError, TaskError
from shared.domain.task import TaskState
from shared.logging import bind, get_logger, unbind_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.worker.backends.base import ArtifactFile, Encoded
    from services.worker.computing import Running
    from services.worker.handler import Workplace
    from services.worker.metrics import WorkerMetrics
    from services.worker.ports import Runner
    from services.worker.settling import Settling
    from shared.contracts.task import TaskMessage
    from shared.storage.ports import ObjectStore

T = TypeVar("T")
log = get_logger(__name__)

# Together about three minutes: an object store that is away for two costs no computed picture.
STORE_TRIES: Final = 24
OUT_OF_MEMORY: Final = "out_of_memory"
MOST_ARTIFACT_MIB: Final = 1024
_STORE_BACKOFF_SECONDS: Final = 0.5
_STORE_LONGEST_BACKOFF_SECONDS: Final = 10.0


class Finisher:
    """Ends executions, one at a time, in the background."""

    def __init__(
        self,
        *,
        store: ObjectStore,
        settling: Settling,
        runner: Runner,
        place: Workplace,
        reporting: Reporting,
    ) -> None:
        self._store = store
        self._settling = settling
        self._vigil = place.vigil
        self._teacher = place.teacher
        self._precedence = place.precedence
        self._clock = place.clock
        self._runner = runner
        self._sandboxes = place.sandboxes
        self._metrics = reporting.metrics
        self._sleep = reporting.sleep
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="finish")
        self._last: Future[None] | None = None

    def submit(self, running: Running) -> None:
        """Finish this one in the background, once the one before is finished."""
        self.wait()
        self._precedence.look()
        self._last = self._pool.submit(self._finish_all, running)

    def wait(self) -> None:
        """Return once nothing is being finished. What it raises is raised once."""
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def stop(self) -> None:
        """Finish what is left, then end."""
        self.wait()
        self._pool.shutdown()

    def _finish_all(self, running: Running) -> None:
        for row in (running, *running.beside):
            self._finish(row)

    def _finish(self, running: Running) -> None:
        unbind_all()
        bind(**running.execution.task.log_context())
        try:
            self._end(running)
        except (BrokerError, StorageError, DecodeError) as exc:
            # Not settled: the message goes back, and whoever gets it finds the outcome or claims the next attempt.
            log.warning("finish_failed", error_code=exc.code, error_message=exc.message)
            # First: the message may be back in this very process before we get to say that its execution is over.
            self._vigil.let_go(running.execution.execution_id)
            self._settling.give_back(running.execution.delivery)
        finally:
            self._vigil.let_go(running.execution.execution_id)
            self._sandboxes.remove(running.folder)

    def _end(self, running: Running) -> None:
        execution, error = running.execution, running.error
        if error is None:
            try:
                outcome = self._succeeded(running)
            except TaskError as exc:
                error = exc
            except OSError as exc:
                error = ArtifactsLostError(str(exc))
            except ValidationError as exc:
                error = BackendError(f"the model's report is wrong: {exc.errors()[0]['loc']}: {exc.errors()[0]['msg']}")
        if error is not None:
            # What did not fit must be known before the next attempt is planned.
            self._teach(running)
            self._metrics.attempts_failed.labels(code=error.code).inc()
            self._give_up(running, error)
            return
        standing = self._persistently(lambda: self._settling.end(execution, outcome))
        self._metrics.tasks_ended.labels(state=standing.state).inc()
        # Fitting what was learnt takes milliseconds, for which no outcome should wait.
        self._teach(running)

    def _teach(self, running: Running) -> None:
        task, error = running.lesson, running.error
        if isinstance(error, BatchFailedError):
            error = error.reason
        if task is None:
            return
        if running.computed is not None:
            self._teacher.succeeded(task, running.plan, running.computed, running.seconds)
        elif isinstance(error, ReportedError) and error.code == OUT_OF_MEMORY:
            self._teacher.ran_out(task, running.plan, error.tier)
        elif isinstance(error, HostOutOfMemoryError):
            self._teacher.ran_out(task, running.plan, "")

    def _give_up(self, running: Running, error: AtelierError) -> None:
        execution = running.execution
        if isinstance(error, DrainedError | BatchFailedError):
            self._settling.hand_back(execution, error)
        elif isinstance(error, TaskCancelledError):
            # Whoever cancelled has committed the outcome before this worker heard of it.
            self._settling.end(execution, self._ended(running, TaskState.CANCELLED, error))
        else:
            self._settling.fail(execution, error, self._ended(running, TaskState.FAILED, error))

    def _succeeded(self, running: Running) -> Outcome:
        execution = running.execution
        encoded = self._encoded(running)
        if not encoded.artifacts:
            message = "the model made no file"
            raise BackendError(message)
        self._precedence.give_way()
        running.news("storing")
        began = time.monotonic()
        artifacts = tuple(self._store_file(running, number, file) for number, file in enumerate(encoded.artifacts))
        store_seconds = time.monotonic() - began
        log.info("artifacts_stored", count=len(artifacts), seconds=round(store_seconds, 4))
        return Outcome(
            task=execution.task,
            state=TaskState.SUCCEEDED,
            attempt=execution.task.attempt,
            execution=execution.execution_id,
            worker=execution.claim.worker,
            started_at=execution.claim.at,
            ended_at=self._clock(),
            artifacts=artifacts,
            timings=self._timings(running, encoded, store_seconds),
            receipt={**self._runner.receipt, **running.plan.figures, **encoded.receipt, **_qualities(execution.task)},
        )

    def _encoded(self, running: Running) -> Encoded:
        try:
            return self._runner.wait_encoded(running.job, running.row)
        except TaskError as exc:
            if running.job.rows == 1:
                raise
            raise BatchFailedError.of(exc) from exc

    def _ended(
        self, running: Running, state: Literal[TaskState.FAILED, TaskState.CANCELLED], error: AtelierError
    ) -> Outcome:
        execution = running.execution
        return Outcome(
            task=execution.task,
            state=state,
            attempt=execution.task.attempt,
            execution=execution.execution_id,
            worker=execution.claim.worker,
            started_at=execution.claim.at,
            ended_at=self._clock(),
            error=ErrorInfo(code=error.code, message=error.message),
            receipt={**self._runner.receipt, **running.plan.figures},
        )

    def _timings(self, running: Running, encoded: Encoded, store_seconds: float) -> dict[str, float]:
        task, claim = running.execution.task, running.execution.claim
        seconds = {
            "queued": (claim.at - task.submitted_at).total_seconds(),
            "load": self._runner.load_seconds,
            "store": store_seconds,
            "total": (self._clock() - task.submitted_at).total_seconds(),
        }
        return {**encoded.timings, **{name: round(value, 6) for name, value in seconds.items()}}

    def _store_file(self, running: Running, number: int, file: ArtifactFile) -> Artifact:
        body = self._sandboxes.read_artifact(running.folder, file.name, MOST_ARTIFACT_MIB)
        key = f"{running.execution.prefix}{number}{Path(file.name).suffix}"
        try:
            self._persistently(lambda: self._store.put(key, body, media_type=file.media_type))
        except StoreTooLateError as exc:
            # Not the attempt's fault. Only here: once an outcome was tried, its files must not be taken back.
            raise DrainedError(exc.message) from exc
        except StorageError as exc:
            raise ArtifactsLostError(exc.message) from exc
        return Artifact(
            key=key,
            media_type=file.media_type,
            bytes=len(body),
            sha256=hashlib.sha256(body).hexdigest(),
            width=file.width,
            height=file.height,
            seed=file.seed,
            frames=file.frames,
            fps=file.fps,
            role=file.role,
        )

    def _persistently(self, write: Callable[[], T]) -> T:
        """A computed picture is worth minutes of patience. Raises StorageError.

        That is StoreTooLateError where the process has to end before those minutes are over.
        """
        for number in range(1, STORE_TRIES):
            try:
                return write()
            except StorageError as exc:
                log.warning("store_retry", number=number, error_message=exc.message)
                if self._sleep(min(_STORE_BACKOFF_SECONDS * 2 ** (number - 1), _STORE_LONGEST_BACKOFF_SECONDS)):
                    return _at_last(write)
        return write()


def _qualities(task: TaskMessage) -> dict[str, str]:
    """What a receipt says of the quality: the one that was made, and what was asked for where that was more."""
    made, asked = task.params.quality, task.params.quality_asked
    named = {"quality": made, "quality_asked": asked}
    return {name: str(quality) for name, quality in named.items() if quality is not None}


def _at_last(write: Callable[[], T]) -> T:
    try:
        return write()
    except StorageError as exc:
        raise StoreTooLateError(exc.message) from exc


@dataclass(frozen=True, slots=True)
class Reporting:
    """How the finisher counts, and waits so many seconds (true: there is no time to wait any more)."""

    metrics: WorkerMetrics
    sleep: Callable[[float], bool | None] = time.sleep
