"""Ends a worker in time: what computes may finish, and what cannot is handed back."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from services.worker.errors import DrainedError
from shared.logging import get_logger

if TYPE_CHECKING:
    from services.worker.handler import TaskHandler
    from services.worker.supervisor import Supervisor
    from shared.lifecycle import StopSignal

log = get_logger(__name__)

_AGAIN_SECONDS: Final = 0.2


class Drain:
    """Waits for the stop, then for ``seconds``, then interrupts whatever is left until the worker has ended."""

    def __init__(self, stop: StopSignal, seconds: float, handler: TaskHandler, supervisor: Supervisor) -> None:
        self._stop = stop
        self._seconds = seconds
        self._handler = handler
        self._supervisor = supervisor
        self._over = threading.Event()
        self._out_of_time = threading.Event()
        self._thread = threading.Thread(target=self._run, name="drain", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def end(self) -> None:
        """The worker has ended by itself."""
        self._over.set()

    def pause(self, seconds: float) -> bool:
        """Sleep; true when there is no time to wait any more."""
        return self._out_of_time.wait(seconds)

    def _run(self) -> None:
        self._stop.wait_for_it()
        self._supervisor.stop_loading()
        if self._over.wait(self._seconds):
            return
        log.warning("drain_out_of_time", seconds=self._seconds)
        self._out_of_time.set()
        while not self._over.wait(_AGAIN_SECONDS):
            self._handler.interrupt(DrainedError("the worker was told to stop"))
