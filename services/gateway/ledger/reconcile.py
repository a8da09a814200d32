"""Putting back what the ledger has lost: the tasks that have not ended, noted as their events would."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from services.gateway.admission.redis_ledger import LedgerUnavailableError
from services.gateway.ledger.notes import note_of_open
from services.gateway.ledger.open_tasks import OpenTasksUnavailableError
from shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.gateway.admission.redis_ledger import RedisLedger
    from services.gateway.ledger.open_tasks import OpenTasks
    from shared.clock import Clock
    from shared.domain.errors import AtelierError
    from shared.lifecycle import StopSignal

log = get_logger(__name__)

LOOK_SECONDS: Final = 2.0


class Reconciler:
    """Looks for the ledger's mark, which goes with everything else, and reads the open tasks when it is missing.

    It does so every ``every`` seconds, too. Notes carry ranks, so what the ledger knows better stays as it is.
    """

    def __init__(
        self,
        ledger: RedisLedger,
        tasks: OpenTasks,
        every: float,
        *,
        now: Clock,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._tasks = tasks
        self._every = every
        self._now = now
        self._clock = clock
        self._done_at = clock()
        self._problem: str | None = None

    @property
    def problem(self) -> str | None:
        """Why tasks may be missing from the ledger, or None."""
        return self._problem

    def run(self, stop: StopSignal) -> None:
        """Look again and again until told to stop."""
        while not stop.is_set():
            self.look()
            stop.wait(LOOK_SECONDS)

    def look(self) -> None:
        """Reconcile if it is time."""
        try:
            if self._ledger.is_whole() and self._clock() - self._done_at < self._every:
                return
            self._reconcile()
        except (LedgerUnavailableError, OpenTasksUnavailableError) as exc:
            self._fail(exc)
        else:
            self._problem = None

    def _reconcile(self) -> None:
        now = self._now()
        self._ledger.begin_reconcile()
        noted = 0
        for tasks in self._tasks.pages():
            notes = [note_of_open(task) for task in tasks if task.finish_deadline > now]
            self._ledger.note(notes)
            noted += len(notes)
        # Where Redis lost everything once more in between, the mark stays away and the next look begins anew.
        self._ledger.end_reconcile()
        self._done_at = self._clock()
        log.info("ledger_reconciled", tasks=noted)

    def _fail(self, error: AtelierError) -> None:
        if self._problem is None:
            log.warning("ledger_not_reconciled", error_code=error.code, error_message=error.message)
        self._problem = error.message
