"""Pass after pass over what waits, by one of any number of replicas: whoever holds the lease.

The lease saves work and is no lock. Two that act at once, or one that goes on after it has lost the lease, do what one
does: every end is a conditional write, and a task that is lifted twice runs once.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final, Protocol

from services.status.errors import ViewStoreError
from shared.domain.errors import ConfigurationError, StorageError
from shared.ids import new_execution_id
from shared.lifecycle import ExitCode
from shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from services.status.store.ports import WorkStore
    from services.status.sweeper.metrics import SweeperMetrics
    from shared.clock import Clock
    from shared.lifecycle import StopSignal

log = get_logger(__name__)

AUTHOR: Final = "status-sweeper"
LEASE: Final = "sweeper"
# Of a replica that dies, another one takes over so long after its last pass began.
LEASE_SECONDS: Final = 15.0


class Duty(Protocol):
    """One thing that a pass does. Methods raise ViewStoreError; what fails for one task is counted and logged."""

    @property
    def name(self) -> str:
        """What it is called in metrics."""
        ...

    def begin(self) -> None:
        """This replica has just got the lease: forget what was known before."""
        ...

    def run(self, limit: int, go_on: Callable[[], bool]) -> None:
        """Do it for at most so many tasks, and only while ``go_on`` says so."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds between two passes, and for how many tasks a pass acts in each duty."""

    seconds: float
    tasks: int


class Sweeper:
    """Runs the duties."""

    def __init__(
        self,
        *,
        work: WorkStore,
        duties: Sequence[Duty],
        prove_store: Callable[[], None],
        metrics: SweeperMetrics,
        clock: Clock,
        pace: Pace,
    ) -> None:
        self._work = work
        self._duties = duties
        self._prove_store = prove_store
        self._metrics = metrics
        self._clock = clock
        self._pace = pace
        self._holder = new_execution_id()
        self._acting = False

    def run(self, stop: StopSignal) -> None:
        """Work until told to stop. The bucket is proved first: of two conditional writes one must be refused."""
        proved = False
        while not stop.is_set():
            try:
                if not proved:
                    self._prove_store()
                    proved = True
                self.sweep(stop)
            except ConfigurationError as exc:
                log.error("configuration_error", error_message=exc.message)  # noqa: TRY400 - the stack says nothing
                stop.request(ExitCode.CONFIGURATION)
            except (ViewStoreError, StorageError) as exc:
                self._metrics.failed.labels(duty="pass").inc()
                log.warning("sweep_failed", error_code=exc.code, error_message=exc.message)
            stop.wait(self._pace.seconds)
        self._give_back()

    def sweep(self, stop: StopSignal) -> bool:
        """One pass; false when another replica acts. Raises ViewStoreError."""
        now = self._clock()
        seconds = max(LEASE_SECONDS, 3 * self._pace.seconds)
        leads = self._work.take_lease(LEASE, self._holder, now, seconds)
        self._metrics.acting.set(leads)
        if leads and not self._acting:
            log.info("sweeper_acts")
            for duty in self._duties:
                duty.begin()
        self._acting = leads
        if not leads:
            return False
        until = now + timedelta(seconds=seconds)
        for duty in self._duties:
            duty.run(self._pace.tasks, lambda: not stop.is_set() and self._clock() < until)
        self._metrics.pass_seconds.observe((self._clock() - now).total_seconds())
        return True

    def _give_back(self) -> None:
        try:
            self._work.give_lease_back(LEASE, self._holder)
        except ViewStoreError as exc:
            log.warning("lease_kept", error_code=exc.code, error_message=exc.message)  # it runs out by itself
