"""Quorum queues of RabbitMQ 4.0 to 4.2 under the same ledger: two levels, the higher one served twice as often."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from bench.fairness.simulation import STALE_SECONDS
from shared.messaging.levels import Levels, amqp_priority

if TYPE_CHECKING:
    from bench.fairness.jobs import Job
    from bench.fairness.ledger import Ledger

_LEAST_HIGH_PRIORITY: Final = 5
_HIGH_IN_A_ROW: Final = 2


class TwoLevels:
    """See Scheduler."""

    def __init__(self, ledger: Ledger) -> None:
        self.lifts = 0
        self._ledger = ledger
        self._high: deque[Job] = deque()
        self._normal: deque[Job] = deque()
        self._row = 0

    def add(self, job: Job) -> None:
        """See Scheduler."""
        job.level = self._ledger.admit(job)
        self._put(job)

    def take(self, now: float) -> tuple[Job | None, float]:
        """See Scheduler. Measured on 4.0: two of the higher level, then one of the other."""
        del now
        spent = 0.0
        while self._high or self._normal:
            if self._high and (self._row < _HIGH_IN_A_ROW or not self._normal):
                job, self._row = self._high.popleft(), min(self._row + 1, _HIGH_IN_A_ROW)
            else:
                job, self._row = self._normal.popleft(), 0
            if job.started is None:
                self._ledger.started(job)
                return job, spent
            spent += STALE_SECONDS
        return None, spent

    def end(self, job: Job) -> None:
        """See Scheduler."""
        self._ledger.ended(job)

    def look(self, now: float) -> None:
        """See Scheduler."""
        for job, level in self._ledger.lifts(now):
            job.level = level
            job.copies += 1
            self.lifts += 1
            self._put(job)

    def _put(self, job: Job) -> None:
        high = amqp_priority(job.level, Levels.TWO) >= _LEAST_HIGH_PRIORITY
        (self._high if high else self._normal).append(job)
