"""Says every few seconds which executions live in this process, and looks whether their tasks have ended elsewhere.

The lease lets other workers tell a worker that lost its connection from one that died. The look at the outcome makes a
cancel that was not heard cost seconds, not the rest of the computation.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from shared.contracts.outcome import Lease
from shared.domain.errors import DecodeError, StorageError
from shared.domain.settle import LEASE_RENEWAL_SECONDS
from shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.clock import Clock
    from shared.storage.records import TaskRecords

log = get_logger(__name__)


class Vigil:
    """Knows the executions that this process has in hand: computing, or finishing."""

    def __init__(self, records: TaskRecords, worker_id: str, clock: Clock) -> None:
        self._records = records
        self._worker_id = worker_id
        self._clock = clock
        self._lock = threading.Lock()
        self._tasks: dict[str, str] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vigil", daemon=True)
        self.on_ended: Callable[[str], None] = lambda _task_id: None
        self.further: tuple[Callable[[], None], ...] = ()

    def start(self) -> None:
        """Write the first lease, so that nobody waits for what a process of this name had in hand before.

        Raises StorageError.
        """
        self.renew()
        self._thread.start()

    def stop(self) -> None:
        """End, and say that nothing is in hand any more."""
        self._over.set()
        self._thread.join(LEASE_RENEWAL_SECONDS)
        self._attempt(self.renew)

    def hold(self, execution: str, task_id: str) -> None:
        """The execution is about to be claimed. To be called before the claim's time is read."""
        with self._lock:
            self._tasks[execution] = task_id

    def let_go(self, execution: str) -> None:
        """The execution is settled, or never began."""
        with self._lock:
            self._tasks.pop(execution, None)

    def holds(self, execution: str) -> bool:
        """Whether the execution lives in this process."""
        with self._lock:
            return execution in self._tasks

    def renew(self) -> None:
        """Write the lease. Raises StorageError."""
        # The time is read before the list: what was claimed earlier than the lease says is on the list, or has ended.
        at = self._clock()
        with self._lock:
            executions = tuple(self._tasks)
        self._records.renew(Lease(worker=self._worker_id, at=at, executions=executions))

    def look(self) -> None:
        """Tell which of the tasks in hand have ended without this process. Raises StorageError, DecodeError."""
        with self._lock:
            tasks = set(self._tasks.values())
        for task_id in tasks:
            if self._records.outcome(task_id) is not None:
                self.on_ended(task_id)

    def _run(self) -> None:
        while not self._over.wait(LEASE_RENEWAL_SECONDS):
            self._attempt(self.renew)
            self._attempt(self.look)
            for check in self.further:
                check()

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except (StorageError, DecodeError) as exc:
            log.warning("vigil_failed", action=action.__name__, error_code=exc.code, error_message=exc.message)
