"""Quorum queues of RabbitMQ 4.0 to 4.2 under the same ledger: two levels, the higher one served twice as often."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from bench.fairness import simulation
from shared.messaging.levels import Levels, amqp_priority

if TYPE_CHECKING:
    from bench.fairness.jobs import Job
    from bench.fairness.ledger import Ledger

_LEAST_HIGH_PRIORITY: Final = 5
_HIGH_IN_A_ROW: Final = 2


class TwoLevels(simulation.Levels):
    """Measured on 4.0: two of the higher level, then one of the other."""

    def __init__(self, ledger: Ledger) -> None:
        super().__init__(ledger)
        self._high: deque[Job] = deque()
        self._normal: deque[Job] = deque()
        self._row = 0

    def put(self, job: Job) -> None:
        """See Levels."""
        high = amqp_priority(job.level, Levels.TWO) >= _LEAST_HIGH_PRIORITY
        (self._high if high else self._normal).append(job)

    def head(self) -> Job | None:
        """See Levels."""
        if self._high and (self._row < _HIGH_IN_A_ROW or not self._normal):
            self._row = min(self._row + 1, _HIGH_IN_A_ROW)
            return self._high.popleft()
        self._row = 0
        return self._normal.popleft() if self._normal else None
