"""The child's life: start and ready-wait, jobs, death and restart within a budget. States are explicit."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, InvalidStateError
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TypeVar

from services.worker.child import ChildProcess
from services.worker.errors import ReportedError, RunnerLoadError
from services.worker.protocol import Cancel, ChildWord, Computed, Done, Failed, Generate, Progress, Ready
from shared.domain.errors import ConfigurationError, RunnerCrashedError, RunnerHungError
from shared.logging import bound, get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.worker.backends.base import Encoded, GenerationRequest
    from services.worker.child import LaunchPlan

log = get_logger(__name__)

_GIB: Final = 1024**3


V = TypeVar("V")


class RunnerState(StrEnum):
    """Where the child is in its life."""

    NEW = "new"
    STARTING = "starting"
    READY = "ready"
    DEAD = "dead"


@dataclass(slots=True)
class Job:
    """One request in the child. ``computed`` comes when the device is free, ``encoded`` when the files are written."""

    job_id: str
    context: dict[str, str | int | None]
    on_progress: Callable[[Progress], None]
    computed: Future[None] = field(default_factory=Future)
    encoded: Future[Encoded] = field(default_factory=Future)
    last_sign: float = field(default_factory=time.monotonic)

    def fail(self, error: Exception) -> None:
        """End both halves, as far as they have not ended."""
        for future in (self.computed, self.encoded):
            _settle(future.set_exception, error)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long a job may take: seconds without a sign of progress, and in all."""

    silence_seconds: float
    total_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long, in seconds, and how often the supervisor bears with a child."""

    load_base: float = 120.0
    load_per_gib: float = 20.0
    cancel_grace: float = 5.0
    encode: float = 120.0
    restarts: int = 5
    restart_window: float = 300.0
    first_backoff: float = 0.2


class Supervisor:
    """Owns the child. All but ``wait_encoded`` and ``cancel`` belong to the main thread."""

    def __init__(self, plan: LaunchPlan, model_bytes: int, patience: Patience | None = None) -> None:
        self._plan = plan
        self._patience = patience or Patience()
        self._load_seconds = self._patience.load_base + self._patience.load_per_gib * model_bytes / _GIB
        self._child: ChildProcess | None = None
        self._ready: Future[Ready] = Future()
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._deaths: list[float] = []
        self.state = RunnerState.NEW
        self.receipt: dict[str, str | int | float] = {}
        self.load_seconds = 0.0

    @property
    def pid(self) -> int | None:
        """The child's process id while it lives."""
        child = self._child
        return child.pid if child is not None and self.state is not RunnerState.DEAD else None

    def ensure_ready(self) -> None:
        """Start the child if it is not alive, and wait until its model is loaded.

        Raises RunnerLoadError when the restart budget is used up or the model cannot be loaded at all.
        """
        while self.state is not RunnerState.READY:
            self._wait_out_backoff()
            try:
                self._start()
            except RunnerCrashedError as exc:
                log.warning("runner_start_failed", error_code=exc.code, error_message=exc.message)

    def begin(self, job: Job, request: GenerationRequest) -> None:
        """Hand a job to the child."""
        with self._lock:
            child = self._child
            if child is None or self.state is not RunnerState.READY:
                job.fail(RunnerCrashedError("the child process is not running"))
                return
            self._jobs[job.job_id] = job
        child.say(Generate(job=job.job_id, requests=(request,)))

    def wait_computed(self, job: Job, limits: Limits) -> None:
        """Wait until the device is free again. Raises ReportedError, RunnerCrashedError, RunnerHungError."""
        end = time.monotonic() + limits.total_seconds
        while True:
            now = time.monotonic()
            silent_until = job.last_sign + limits.silence_seconds
            try:
                job.computed.result(timeout=max(0.0, min(end, silent_until) - now))
            except FutureTimeoutError:
                if job.computed.done() or time.monotonic() < min(end, job.last_sign + limits.silence_seconds):
                    continue
                self._put_down(job, "time limit" if time.monotonic() >= end else "no progress")
            else:
                return

    def wait_encoded(self, job: Job) -> Encoded:
        """Wait for a computed job's files. Raises ReportedError, RunnerCrashedError, RunnerHungError."""
        try:
            return job.encoded.result(self._patience.encode)
        except FutureTimeoutError:
            # Files are written one after the other: a child that hangs here would fail every later job as well.
            job.fail(RunnerHungError("the files were not written in time: the child process was killed"))
            self._kill_child_of(job)
            return job.encoded.result()

    def cancel(self, job_id: str) -> None:
        """Ask for the end of a job at its next step."""
        child = self._child
        if child is not None:
            child.say(Cancel(job=job_id))

    def stop(self, grace_seconds: float) -> None:
        """End the child."""
        child = self._child
        if child is not None:
            child.end(grace_seconds)

    def _start(self) -> None:
        self.state = RunnerState.STARTING
        self._ready = Future()
        child = ChildProcess(self._plan, on_word=self._on_word, on_exit=self._on_exit, on_output=self._on_output)
        self._child = child
        log.info("runner_started", runner_pid=child.pid, backend=self._plan.backend, device=self._plan.device)
        try:
            ready = self._ready.result(self._load_seconds)
        except FutureTimeoutError as exc:
            child.kill()
            message = f"the model was not loaded within {self._load_seconds:g} s"
            raise RunnerLoadError(message) from exc
        self.receipt, self.load_seconds = ready.receipt, ready.seconds
        log.info("model_loaded", seconds=round(ready.seconds, 3), bytes=ready.bytes_on_disk)

    def _wait_out_backoff(self) -> None:
        now = time.monotonic()
        patience = self._patience
        self._deaths = [death for death in self._deaths if now - death < patience.restart_window]
        if len(self._deaths) > patience.restarts:
            message = f"the child process died {len(self._deaths)} times within {patience.restart_window:g} s"
            raise RunnerLoadError(message)
        if self._deaths:
            time.sleep(patience.first_backoff * 2 ** (len(self._deaths) - 1))

    def _put_down(self, job: Job, why: str) -> None:
        """Ask, wait a little, then kill. The job's error says why."""
        self.cancel(job.job_id)
        try:
            job.computed.result(self._patience.cancel_grace)
        except FutureTimeoutError:
            job.fail(RunnerHungError(f"{why}: the child process was killed"))
            self._kill_child_of(job)
        except ReportedError as exc:
            message = f"{why}: stopped at the next step"
            raise RunnerHungError(message) from exc

    def _kill_child_of(self, job: Job) -> None:
        with self._lock:
            child = self._child if job.job_id in self._jobs else None
        if child is not None:
            child.kill()

    def _on_word(self, word: ChildWord) -> None:
        if isinstance(word, Ready):
            self.state = RunnerState.READY
            _settle(self._ready.set_result, word)
        elif isinstance(word, Failed) and not word.job:
            # Loading failed: trying again would fail again, so this is an error of the set-up.
            error = ConfigurationError(f"the model cannot be loaded: {word.message} {word.stack}")
            _settle(self._ready.set_exception, error)
        else:
            self._on_job_word(word)

    def _on_job_word(self, word: Progress | Computed | Done | Failed) -> None:
        with self._lock:
            ended = isinstance(word, Done | Failed)
            job = self._jobs.pop(word.job, None) if ended else self._jobs.get(word.job)
        if job is None:
            return
        job.last_sign = time.monotonic()
        if isinstance(word, Progress):
            job.on_progress(word)
        elif isinstance(word, Computed):
            _settle(job.computed.set_result, None)
        elif isinstance(word, Done):
            _settle(job.encoded.set_result, word.results[0])
        else:
            if word.stack:
                with bound(**job.context):
                    log.warning("backend_raised", error_code=word.code, exception=word.stack)
            job.fail(ReportedError(word.code, word.message, retryable=word.retryable, stack=word.stack))

    def _on_exit(self, how: str) -> None:
        self._deaths.append(time.monotonic())
        with self._lock:
            self.state = RunnerState.DEAD
            jobs, self._jobs = list(self._jobs.values()), {}
        error = RunnerCrashedError(f"the child process ended with {how}")
        log.info("runner_ended", how=how, jobs=len(jobs))
        _settle(self._ready.set_exception, error)
        for job in jobs:
            job.fail(error)

    def _on_output(self, line: str) -> None:
        with self._lock:
            context = next((job.context for job in reversed(self._jobs.values())), {})
        with bound(**context):
            log.info("runner_output", line=line)


def _settle(end: Callable[[V], None], value: V) -> None:
    """End a future. The child's word and our giving up may cross: what came first stands."""
    try:
        end(value)
    except InvalidStateError:
        log.debug("already_ended")
