"""The child's life: start and ready-wait, jobs, replacement, death and restart within a budget. States are explicit."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from services.worker.backends.base import Memory
from services.worker.child import ChildProcess
from services.worker.errors import HostOutOfMemoryError, ReportedError, RunnerLoadError
from services.worker.job import settle, time_left
from services.worker.protocol import Cancel, ChildWord, Computed, Done, Failed, Generate, Progress, Ready
from services.worker.recycling import Recycling, Wear
from shared.domain.errors import ConfigurationError, RunnerCrashedError, RunnerHungError
from shared.logging import bound, get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.worker.backends.base import Encoded, GenerationRequest
    from services.worker.child import LaunchPlan
    from services.worker.job import Job, Limits
    from shared.domain.errors import TaskError

log = get_logger(__name__)

_GIB: Final = 1024**3
_OUT_OF_MEMORY: Final = "out_of_memory"
_KILLED: Final = "signal SIGKILL"


class RunnerState(StrEnum):
    """Where the child is in its life."""

    NEW = "new"
    STARTING = "starting"
    READY = "ready"
    ENDING = "ending"
    DEAD = "dead"


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
    recycling: Recycling = field(default_factory=Recycling)


class Supervisor:
    """Owns the child. ``ensure_ready``, ``begin`` and ``wait_computed`` belong to the main thread."""

    def __init__(
        self,
        plan: LaunchPlan,
        model_bytes: int,
        patience: Patience | None = None,
        oom_kills: Callable[[], int] = lambda: 0,
    ) -> None:
        self._plan = plan
        self._patience = patience or Patience()
        self._oom_kills = oom_kills
        self._oom_kills_before = 0
        self._load_seconds = self._patience.load_base + self._patience.load_per_gib * model_bytes / _GIB
        self._child: ChildProcess | None = None
        self._ready: Future[Ready] = Future()
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._deaths: list[float] = []
        self._wear = Wear(self._patience.recycling)
        self._wanted_reason: str | None = None
        self._stopping = threading.Event()
        self.state = RunnerState.NEW
        self.receipt: dict[str, str | int | float] = {}
        self.memory = Memory()
        self.load_seconds = 0.0

    @property
    def pid(self) -> int | None:
        """The child's process id while it lives."""
        child = self._child
        return child.pid if child is not None and self.state is not RunnerState.DEAD else None

    @property
    def ready(self) -> bool:
        """See Runner. A child that has said it can compute no more, or is to be replaced, is not."""
        return self.state is RunnerState.READY and self._wanted_reason is None

    def ensure_ready(self) -> None:
        """Replace a child that is worn out, start one if none is alive, and wait until its model is loaded.

        Raises RunnerLoadError when the restart budget is used up or loading takes too long, ConfigurationError when the
        model cannot be loaded at all. Returns without a child once ``stop_loading`` was called.
        """
        reason = self._wanted_reason or self._wear.reason
        if self.state is RunnerState.READY and reason is not None:
            self._replace(reason)
        while self.state is not RunnerState.READY and not self._stopping.is_set():
            self._wait_out_backoff()
            try:
                self._start()
            except RunnerCrashedError as exc:
                log.warning("runner_start_failed", error_code=exc.code, error_message=exc.message)

    def recycle(self, reason: str) -> None:
        """Replace the child before its next task. Any thread may ask."""
        self._wanted_reason = reason

    def stop_loading(self) -> None:
        """The worker is to end: a child that is still loading its model is not waited for. Any thread may ask."""
        self._stopping.set()
        child = self._child
        if self.state is RunnerState.STARTING and child is not None:
            child.kill()

    def begin(self, job: Job, request: GenerationRequest, *, tier: str = "") -> None:
        """See Runner."""
        job.began = job.last_sign = time.monotonic()
        with self._lock:
            child = self._child
            if child is None or self.state is not RunnerState.READY:
                job.fail(RunnerCrashedError("the child process is not running"))
                return
            self._jobs[job.job_id] = job
        child.say(Generate(job=job.job_id, requests=(request,), tier=tier))

    def wait_computed(self, job: Job, limits: Limits) -> Computed:
        """See Runner. Raises ReportedError, RunnerCrashedError, RunnerHungError, or what interrupted the job."""
        while True:
            left = time_left(job, limits) if job.interruption is None else None
            try:
                return job.computed.result(timeout=None if left is None else max(0.0, left))
            except FutureTimeoutError:
                if not job.computed.done() and time_left(job, limits) <= 0:
                    why = "time limit" if time.monotonic() >= limits.end(job) else "no progress"
                    self.interrupt(job, RunnerHungError(f"{why}: it was stopped"))

    def wait_encoded(self, job: Job) -> Encoded:
        """See Runner. Raises ReportedError, RunnerCrashedError, RunnerHungError."""
        try:
            return job.encoded.result(self._patience.encode)
        except FutureTimeoutError:
            # Files are written one after the other: a child that hangs here would fail every later job as well.
            job.fail(RunnerHungError("the files were not written in time: the child process was killed"))
            self._put_down_child_of(job)
            return job.encoded.result()

    def interrupt(self, job: Job, error: TaskError) -> None:
        """See Runner: ask for the end at the next step, and end the process if that does not come soon."""
        with self._lock:
            child = self._child
            if child is None or job.computed.done() or job.interruption is not None:
                return
            job.interruption = error
        with bound(**job.context):
            log.info("job_interrupted", error_code=error.code)
        child.say(Cancel(job=job.job_id))
        timer = threading.Timer(self._patience.cancel_grace, self._end_unless_computed, (job,))
        timer.daemon = True
        timer.start()

    def stop(self, grace_seconds: float) -> None:
        """End the child."""
        child = self._child
        if child is not None:
            self.state = RunnerState.ENDING if self.state is not RunnerState.DEAD else self.state
            child.end(grace_seconds)

    def _start(self) -> None:
        self.state = RunnerState.STARTING
        self._ready, self._wear, self._wanted_reason = Future(), Wear(self._patience.recycling), None
        self._oom_kills_before = self._oom_kills()
        child = ChildProcess(self._plan, on_word=self._on_word, on_exit=self._on_exit, on_output=self._on_output)
        self._child = child
        log.info("runner_started", runner_pid=child.pid, backend=self._plan.backend, device=self._plan.device)
        try:
            ready = self._ready.result(self._load_seconds)
        except FutureTimeoutError as exc:
            child.kill()
            message = f"the model was not loaded within {self._load_seconds:g} s"
            raise RunnerLoadError(message) from exc
        self.receipt, self.load_seconds, self.memory = ready.receipt, ready.seconds, ready.memory
        log.info("runner_confined", **ready.confinement)
        log.info("model_loaded", seconds=round(ready.seconds, 3), bytes=ready.bytes_on_disk, **ready.receipt)

    def _replace(self, reason: str) -> None:
        with self._lock:
            encoding = list(self._jobs.values())
        for job in encoding:
            # Its finisher waits for the same future and handles its errors.
            job.encoded.exception(self._patience.encode)
        log.info("runner_recycled", reason=reason, rss_mb=self.memory.rss_mb, reserved_mb=self.memory.reserved_mb)
        self.stop(self._patience.cancel_grace)

    def _wait_out_backoff(self) -> None:
        now = time.monotonic()
        patience = self._patience
        self._deaths = [death for death in self._deaths if now - death < patience.restart_window]
        if len(self._deaths) > patience.restarts:
            message = f"the child process died {len(self._deaths)} times within {patience.restart_window:g} s"
            raise RunnerLoadError(message)
        if self._deaths:
            self._stopping.wait(patience.first_backoff * 2 ** (len(self._deaths) - 1))

    def _end_unless_computed(self, job: Job) -> None:
        if not job.computed.done():
            with bound(**job.context):
                log.warning("runner_unresponsive")
            self._put_down_child_of(job)

    def _put_down_child_of(self, job: Job) -> None:
        with self._lock:
            child = self._child if job.job_id in self._jobs else None
        if child is not None:
            child.put_down()

    def _on_word(self, word: ChildWord) -> None:
        if isinstance(word, Failed) and word.fatal:
            self._wanted_reason = word.code
        if isinstance(word, Ready):
            self.state = RunnerState.READY
            settle(self._ready.set_result, word)
        elif isinstance(word, Failed) and not word.job:
            settle(self._ready.set_exception, _load_error(word))
        else:
            self._on_job_word(word)

    def _on_job_word(self, word: Progress | Computed | Done | Failed) -> None:
        with self._lock:
            ended = isinstance(word, Done | Failed)
            job = self._jobs.pop(word.job, None) if ended else self._jobs.get(word.job)
        if job is None:
            return
        job.sign(word if isinstance(word, Progress) else None)
        if isinstance(word, Progress):
            job.on_progress(word)
        elif isinstance(word, Computed):
            self.memory = word.memory
            self._wear.served(word.memory)
            self._deaths.clear()
            settle(job.computed.set_result, word)
        elif isinstance(word, Done):
            settle(job.encoded.set_result, word.results[0])
        else:
            self._on_failed(job, word)

    def _on_failed(self, job: Job, word: Failed) -> None:
        if word.stack:
            with bound(**job.context):
                log.warning("backend_raised", error_code=word.code, exception=word.stack)
        job.fail(ReportedError(word.code, word.message, retryable=word.retryable, stack=word.stack, tier=word.tier))

    def _on_exit(self, how: str) -> None:
        with self._lock:
            expected = self.state is RunnerState.ENDING
            self.state = RunnerState.DEAD
            jobs, self._jobs = list(self._jobs.values()), {}
        if not expected:
            self._deaths.append(time.monotonic())
        error: TaskError = RunnerCrashedError(f"the child process ended with {how}")
        if how == _KILLED and self._oom_kills() > self._oom_kills_before:
            error = HostOutOfMemoryError("the kernel ended the child process: the host's memory was used up")
        log.info("runner_ended", how=how, jobs=len(jobs), error_code=error.code)
        settle(self._ready.set_exception, error)
        for job in jobs:
            job.fail(error)

    def _on_output(self, line: str) -> None:
        with self._lock:
            context = next((job.context for job in reversed(self._jobs.values())), {})
        with bound(**context):
            log.info("runner_output", line=line)


def _load_error(word: Failed) -> Exception:
    if word.code == _OUT_OF_MEMORY:
        # Somebody else holds the memory; that passes, within the restart budget.
        return RunnerCrashedError(f"no memory for the model: {word.message}")
    # Loading failed: trying again would fail again, so this is an error of the set-up.
    return ConfigurationError(f"the model cannot be loaded: {word.message} {word.stack}")
