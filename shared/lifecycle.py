"""Signals and exit codes: a process is told to stop once, and says with its exit code why it ended."""

from __future__ import annotations

import gc
import os
import queue
import resource
import signal
import threading
from enum import IntEnum
from typing import TYPE_CHECKING

from shared.logging import get_logger

if TYPE_CHECKING:
    from types import FrameType

log = get_logger(__name__)


class ExitCode(IntEnum):
    """Why a process ended."""

    OK = 0
    CRASHED = 1
    INCOMPLETE = 65  # EX_DATAERR: the rest is done, some of the data could not be read or is left to do
    CONFIGURATION = 78  # EX_CONFIG of sysexits.h
    DEPENDENCY = 69  # EX_UNAVAILABLE: the broker, store or database stayed away
    RUNNER = 70  # EX_SOFTWARE: the model's child process keeps dying
    FORCED = 75  # EX_TEMPFAIL: a second signal, ended at once with whatever was in hand


def raise_descriptor_limit(wanted: int) -> None:
    """Let this process and its children have so many descriptors, as far as the system lets them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < wanted:
        log.warning("descriptors_limited", wanted=wanted, limit=most)


def settle_memory() -> None:
    """Once a server is built: leave what stays for good out of the garbage collector, and let it run more rarely.

    A request makes hundreds of short-lived objects that reference counting frees; walking them costs several percent.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


class StopSignal:
    """Becomes set on SIGTERM or SIGINT, or when some part of the process asks for the end; a second signal ends it."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._heard: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._signalled = False
        self.exit_code = ExitCode.OK

    def install(self) -> None:
        """Listen to SIGTERM and SIGINT, and to threads that die of an error nobody expected. Main thread only."""
        threading.Thread(target=self._obey, name="stop-signal", daemon=True).start()
        threading.excepthook = self._on_thread_death
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)

    def request(self, exit_code: ExitCode = ExitCode.OK) -> None:
        """Ask the process to stop with an exit code; the first request's code counts."""
        with self._lock:
            if not self._event.is_set():
                self.exit_code = exit_code
            self._event.set()

    def is_set(self) -> bool:
        """Whether the process shall stop."""
        return self._event.is_set()

    def wait(self, seconds: float) -> bool:
        """Sleep until the stop or the time's end; true when it shall stop."""
        return self._event.wait(seconds)

    def wait_for_it(self) -> None:
        """Sleep until the stop."""
        self._event.wait()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        # This runs between any two steps of the main thread, which may hold the lock of the event or of the log just
        # then: whoever takes a lock here waits for ever. Putting into this queue takes none.
        if self._signalled:
            os._exit(ExitCode.FORCED)
        self._signalled = True
        self._heard.put(number)

    def _obey(self) -> None:
        number = self._heard.get()
        log.info("stop_requested", signal=signal.Signals(number).name)
        self.request()

    def _on_thread_death(self, death: threading.ExceptHookArgs) -> None:
        # A process that lacks one of its threads looks alive and does half its work.
        if death.exc_value is None or isinstance(death.exc_value, SystemExit):
            return
        name = death.thread.name if death.thread is not None else None
        log.error("thread_died", thread=name, exc_info=death.exc_value)
        self.request(ExitCode.CRASHED)
