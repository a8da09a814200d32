"""What follows the computation: take the written files, store them, commit the outcome, tell, ack, clean up.

It runs in a thread of its own while the next task computes; at most one task is finishing at a time.
"""

from __future__ import annotations

import hashlib
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Final

from services.worker.errors import ArtifactsLostError
from shared.contracts.outcome import Artifact, ErrorInfo, Outcome
from shared.domain.errors import AtelierError, BrokerError, DecodeError, RunnerHungError, StorageError, TaskError
from shared.domain.task import TaskState
from shared.logging import bind, get_logger, unbind_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.worker.backends.base import ArtifactFile, Encoded
    from services.worker.handler import Running, TaskHandler
    from services.worker.metrics import WorkerMetrics
    from services.worker.ports import Runner
    from services.worker.sandbox import Sandboxes
    from services.worker.settling import Settling
    from shared.clock import Clock
    from shared.storage.ports import ObjectStore

log = get_logger(__name__)

_ENCODE_SECONDS: Final = 120.0
_STORE_TRIES: Final = 5
_STORE_BACKOFF_SECONDS: Final = 0.5


class Finisher:
    """Ends executions, one at a time, in the background."""

    def __init__(
        self,
        *,
        store: ObjectStore,
        settling: Settling,
        handler: TaskHandler,
        runner: Runner,
        sandboxes: Sandboxes,
        reporting: Reporting,
    ) -> None:
        self._store = store
        self._settling = settling
        self._handler = handler
        self._runner = runner
        self._sandboxes = sandboxes
        self._clock = reporting.clock
        self._metrics = reporting.metrics
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="finish")
        self._last: Future[None] | None = None
        self._stopping = threading.Event()

    def submit(self, running: Running) -> None:
        """Finish this one in the background, once the one before is finished."""
        self.wait()
        self._last = self._pool.submit(self._finish, running)

    def wait(self) -> None:
        """Return once nothing is being finished."""
        if self._last is not None:
            self._last.result()
            self._last = None

    def stop(self) -> None:
        """Finish what is left, then end."""
        self.wait()
        self._pool.shutdown()

    def _finish(self, running: Running) -> None:
        unbind_all()
        bind(**running.execution.task.log_context())
        try:
            self._end(running)
        except (BrokerError, StorageError, DecodeError) as exc:
            # Not settled: the message goes back, and whoever gets it finds the outcome or claims the next attempt.
            log.warning("finish_failed", error_code=exc.code, error_message=exc.message)
            self._settling.give_back(running.execution.delivery)
        finally:
            self._handler.forget(running.execution)
            self._sandboxes.remove(running.folder)

    def _end(self, running: Running) -> None:
        execution, error = running.execution, running.error
        if error is None:
            try:
                outcome = self._succeeded(running)
            except (TaskError, OSError) as exc:
                error = exc if isinstance(exc, AtelierError) else ArtifactsLostError(str(exc))
        if error is not None:
            self._metrics.attempts_failed.labels(code=error.code).inc()
            self._settling.fail(execution, error, self._failed(running, error))
            return
        standing = self._settling.end(execution, outcome)
        self._metrics.tasks_ended.labels(state=standing.state).inc()

    def _succeeded(self, running: Running) -> Outcome:
        execution = running.execution
        try:
            encoded = running.job.encoded.result(_ENCODE_SECONDS)
        except FutureTimeoutError as exc:
            message = "the files were not written in time"
            raise RunnerHungError(message) from exc
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
            receipt={**self._runner.receipt, **encoded.receipt},
        )

    def _failed(self, running: Running, error: AtelierError) -> Outcome:
        execution = running.execution
        return Outcome(
            task=execution.task,
            state=TaskState.FAILED,
            attempt=execution.task.attempt,
            execution=execution.execution_id,
            worker=execution.claim.worker,
            started_at=execution.claim.at,
            ended_at=self._clock(),
            error=ErrorInfo(code=error.code, message=error.message),
            receipt=dict(self._runner.receipt),
        )

    def _timings(self, running: Running, encoded: Encoded, store_seconds: float) -> dict[str, float]:
        task, claim = running.execution.task, running.execution.claim
        seconds = {
            "queued": (claim.at - task.submitted_at).total_seconds(),
            "load": self._runner.load_seconds,
            **encoded.timings,
            "store": store_seconds,
            "total": (self._clock() - task.submitted_at).total_seconds(),
        }
        return {name: round(value, 6) for name, value in seconds.items()}

    def _store_file(self, running: Running, number: int, file: ArtifactFile) -> Artifact:
        path = running.folder / file.name
        key = f"{running.execution.prefix}{number}{path.suffix}"
        body = path.read_bytes()
        _persistently(lambda: self._store.put(key, body, media_type=file.media_type))
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
        )


class Reporting:
    """How the finisher reads the time and counts."""

    def __init__(self, clock: Clock, metrics: WorkerMetrics) -> None:
        self.clock = clock
        self.metrics = metrics


def _persistently(write: Callable[[], None]) -> None:
    """A computed picture is worth more than a few seconds of patience. Raises ArtifactsLostError in the end."""
    for number in range(1, _STORE_TRIES + 1):
        try:
            write()
        except StorageError as exc:
            if number == _STORE_TRIES:
                message = f"the store failed {number} times: {exc.message}"
                raise ArtifactsLostError(message) from exc
            log.warning("store_retry", number=number, error_message=exc.message)
            time.sleep(_STORE_BACKOFF_SECONDS * 2 ** (number - 1))
        else:
            return
