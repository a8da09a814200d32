"""The child's life: start and ready-wait, jobs, replacement, death and restart within a budget. States are explicit."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Final

from services.worker.backends.base import Memory
from services.worker.child import ChildProcess
from services.worker.errors import HostOutOfMemoryError, ReportedError, RunnerLoadError
from services.worker.job import settle, time_left
from services.worker.protocol import Cancel, ChildWord, Computed, Done, Failed, Generate, Progress, Ready
from services.worker.recycling import Recycling, Wear
from shared.domain.errors import BackendError, ConfigurationError, RunnerCrashedError, RunnerHungError, TaskError
from shared.logging import bound, get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.worker.backends.base import Encoded, GenerationRequest
    from services.worker.child import LaunchPlan
    from services.worker.job import Job, Limits

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


@dataclass(slots=True, eq=False, kw_only=True)
class _Launch:
    """One child. What an earlier one says late, its end included, must not touch a later one."""

    wear: Wear
    oom_kills: int
    ready: Future[Ready] = field(default_factory=Future)
    child: ChildProcess | None = None


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
        self._load_seconds = self._patience.load_base + self._patience.load_per_gib * model_bytes / _GIB
        self._launch = _Launch(wear=Wear(self._patience.recycling), oom_kills=0)
        self._jobs: dict[str, Job] = {}
        self._speaker: dict[str, str | int | None] = {}
        self._lock = threading.Lock()
        self._deaths: list[float] = []
        self._unkillable = False
        self._wanted_reason: str | None = None
        self._stopping = threading.Event()
        self.state = RunnerState.NEW
        self.receipt: dict[str, str | int | float] = {}
        self.memory = Memory()
        self.load_seconds = 0.0

    @property
    def pid(self) -> int | None:
        """The child's process id while it lives."""
        child = self._launch.child
        return child.pid if child is not None and self.state is not RunnerState.DEAD else None

    @property
    def ready(self) -> bool:
        """See Runner. A child that has said it can compute no more, or is to be replaced, is not."""
        return self.state is RunnerState.READY and self._wanted_reason is None

    def ensure_ready(self) -> None:
        """Replace a child that is worn out, start one if none is alive, and wait until its model is loaded.

        Raises RunnerLoadError when the restart budget is used up, loading takes too long or a child cannot be ended,
        ConfigurationError when the model cannot be loaded at all, WorkFolderError. Returns without a child once
        ``stop_loading`` was called.
        """
        reason = self._wanted_reason or self._launch.wear.reason
        if self.state is RunnerState.READY and reason is not None:
            self._replace(reason)
        while self.state is not RunnerState.READY and not self._stopping.is_set():
            self._wait_out_backoff()
            try:
                self._start()
            except TaskError as exc:
                log.warning("runner_start_failed", error_code=exc.code, error_message=exc.message)

    def recycle(self, reason: str) -> None:
        """Replace the child before its next task. Any thread may ask."""
        self._wanted_reason = reason

    def stop_loading(self) -> None:
        """The worker is to end: a child that is still loading its model is not waited for. Any thread may ask."""
        self._stopping.set()
        child = self._launch.child
        if self.state is RunnerState.STARTING and child is not None:
            child.kill()

    def begin(self, job: Job, *requests: GenerationRequest, tier: str = "") -> None:
        """See Runner."""
        job.rows = len(requests)
        job.began = job.last_sign = time.monotonic()
        with self._lock:
            child = self._launch.child
            if child is None or self.state is not RunnerState.READY:
                job.fail(RunnerCrashedError("the child process is not running"))
                return
            self._jobs[job.job_id] = job
            self._speaker = job.context
        child.say(Generate(job=job.job_id, requests=requests, tier=tier))

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

    def wait_encoded(self, job: Job, row: int = 0) -> Encoded:
        """See Runner. Raises ReportedError, RunnerCrashedError, RunnerHungError."""
        try:
            return job.encoded.result(self._patience.encode)[row]
        except FutureTimeoutError:
            # Files are written one after the other: a child that hangs here would fail every later job as well.
            job.fail(RunnerHungError("the files were not written in time: the child process was killed"))
            self._put_down_child_of(job)
            return job.encoded.result()[row]

    def interrupt(self, job: Job, error: TaskError) -> None:
        """See Runner: ask for the end at the next step, and end the process if that does not come soon."""
        with self._lock:
            child = self._launch.child
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
        with self._lock:
            launch = self._launch
            if self.state is not RunnerState.DEAD:
                self.state = RunnerState.ENDING
        if launch.child is not None and not launch.child.end(grace_seconds):
            self._abandon(launch)

    def _start(self) -> None:
        if self._unkillable:
            message = "a child process cannot be ended and may hold the device's memory"
            raise RunnerLoadError(message)
        launch = _Launch(wear=Wear(self._patience.recycling), oom_kills=self._oom_kills())
        with self._lock:
            self._launch, self.state, self._wanted_reason = launch, RunnerState.STARTING, None
        child = self._spawn(launch)
        log.info("runner_started", runner_pid=child.pid, backend=self._plan.backend, device=self._plan.device)
        if self._stopping.is_set():
            # It was told before there was a child to be ended.
            self._kill(launch)
        try:
            ready = launch.ready.result(self._load_seconds)
        except FutureTimeoutError as exc:
            self._kill(launch)
            message = f"the model was not loaded within {self._load_seconds:g} s"
            raise RunnerLoadError(message) from exc
        except TaskError:
            # It may still be on its way out, with the memory that the next one needs.
            self._kill(launch)
            raise
        self.receipt, self.load_seconds, self.memory = ready.receipt, ready.seconds, ready.memory
        log.info("runner_confined", confinement=ready.confinement)
        log.info("model_loaded", seconds=round(ready.seconds, 3), bytes=ready.bytes_on_disk, receipt=ready.receipt)

    def _spawn(self, launch: _Launch) -> ChildProcess:
        try:
            launch.child = ChildProcess(
                self._plan,
                on_word=partial(self._on_word, launch),
                on_exit=partial(self._on_exit, launch),
                on_output=self._on_output,
            )
        except OSError as exc:
            how = f"no start: {exc.strerror}"
            self._on_exit(launch, how)
            message = f"the child process ended with {how}"
            raise RunnerCrashedError(message) from exc
        return launch.child

    def _replace(self, reason: str) -> None:
        with self._lock:
            encoding = [job.encoded for job in self._jobs.values()]
        # Their finisher waits for the same futures, and handles what becomes of them.
        wait_for(encoding, self._patience.encode)
        log.info("runner_recycled", reason=reason, rss_mb=self.memory.rss_mb, reserved_mb=self.memory.reserved_mb)
        self.stop(self._patience.cancel_grace)

    def _wait_out_backoff(self) -> None:
        now = time.monotonic()
        patience = self._patience
        with self._lock:
            self._deaths = [death for death in self._deaths if now - death < patience.restart_window]
            deaths = len(self._deaths)
        if deaths > patience.restarts:
            message = f"the child process died {deaths} times within {patience.restart_window:g} s"
            raise RunnerLoadError(message)
        if deaths:
            self._stopping.wait(patience.first_backoff * 2 ** (deaths - 1))

    def _end_unless_computed(self, job: Job) -> None:
        if not job.computed.done():
            with bound(**job.context):
                log.warning("runner_unresponsive")
            self._put_down_child_of(job)

    def _put_down_child_of(self, job: Job) -> None:
        with self._lock:
            launch = self._launch
            child = launch.child if job.job_id in self._jobs else None
        if child is not None and not child.put_down():
            self._abandon(launch)

    def _kill(self, launch: _Launch) -> None:
        if launch.child is not None and not launch.child.kill():
            self._abandon(launch)

    def _abandon(self, launch: _Launch) -> None:
        """Nobody waits for a child any more that not even SIGKILL ends; another process must see to its device."""
        self._unkillable = True
        self._on_exit(launch, "no end: it cannot be killed")

    def _on_word(self, launch: _Launch, word: ChildWord) -> None:
        with self._lock:
            if launch is not self._launch or self.state is RunnerState.DEAD:
                return
            if isinstance(word, Ready) and self.state is RunnerState.STARTING:
                self.state = RunnerState.READY
        if isinstance(word, Failed) and word.fatal:
            self._wanted_reason = word.code
        if isinstance(word, Ready):
            settle(launch.ready.set_result, word)
        elif isinstance(word, Failed) and not word.job:
            settle(launch.ready.set_exception, _load_error(word))
        else:
            self._on_job_word(launch, word)

    def _on_job_word(self, launch: _Launch, word: Progress | Computed | Done | Failed) -> None:
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
            launch.wear.served(word.memory)
            with self._lock:
                self._deaths.clear()
            settle(job.computed.set_result, word)
        elif isinstance(word, Done):
            if not job.computed.done() or len(word.results) != job.rows:
                job.fail(BackendError("its files came before the end of its computation, or of other requests"))
            settle(job.encoded.set_result, word.results)
        else:
            self._on_failed(job, word)

    def _on_failed(self, job: Job, word: Failed) -> None:
        if word.stack:
            with bound(**job.context):
                log.warning("backend_raised", error_code=word.code, exception=word.stack)
        job.fail(ReportedError(word.code, word.message, retryable=word.retryable, stack=word.stack, tier=word.tier))

    def _on_exit(self, launch: _Launch, how: str) -> None:
        with self._lock:
            if launch is not self._launch or self.state is RunnerState.DEAD:
                return
            if self.state is not RunnerState.ENDING:
                self._deaths.append(time.monotonic())
            self.state = RunnerState.DEAD
            jobs, self._jobs = list(self._jobs.values()), {}
        error: TaskError = RunnerCrashedError(f"the child process ended with {how}")
        if how == _KILLED and self._oom_kills() > launch.oom_kills:
            error = HostOutOfMemoryError("the kernel ended the child process: the host's memory was used up")
        log.info("runner_ended", how=how, jobs=len(jobs), error_code=error.code)
        settle(launch.ready.set_exception, error)
        for job in jobs:
            job.fail(error)

    def _on_output(self, line: str) -> None:
        # Its words come through a pipe of their own, some of them when the job is over.
        with self._lock:
            context = self._speaker
        with bound(**context):
            log.info("runner_output", line=line)


def _load_error(word: Failed) -> Exception:
    if word.code == _OUT_OF_MEMORY:
        # Somebody else holds the memory; that passes, within the restart budget.
        return RunnerCrashedError(f"no memory for the model: {word.message}")
    # Loading failed: trying again would fail again, so this is an error of the set-up.
    return ConfigurationError(f"the model cannot be loaded: {word.message} {word.stack}")
