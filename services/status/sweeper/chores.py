"""What need not be done in every pass: begun now and then, and done in pieces, so that no pass waits long for it."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from shared.domain.errors import AtelierError
from shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from services.status.sweeper.metrics import SweeperMetrics
    from shared.clock import Clock

log = get_logger(__name__)

HOURLY: Final = timedelta(hours=1)
# After a failure it is tried again so much later.
_PAUSE: Final = timedelta(minutes=1)
# Others wait meanwhile: a late task for its end, a waiting one for its turn.
_PIECE: Final = 20


class ChoreDuty:
    """A Duty. ``chore`` does a piece of at most so much work; it returns whether there is more to do at once."""

    def __init__(
        self,
        name: str,
        chore: Callable[[datetime, int], bool],
        *,
        metrics: SweeperMetrics,
        clock: Clock,
        every: timedelta = HOURLY,
    ) -> None:
        self.name = name
        self._chore = chore
        self._metrics = metrics
        self._clock = clock
        self._every = every
        self._next_at: datetime | None = None

    def begin(self) -> None:
        """See Duty. When it was done last is not known here."""
        self._next_at = None

    def run(self, limit: int, go_on: Callable[[], bool]) -> None:
        """See Duty."""
        now = self._clock()
        if (self._next_at is not None and now < self._next_at) or not go_on():
            return
        try:
            more = self._chore(now, min(limit, _PIECE))
        except AtelierError as exc:
            self._metrics.failed.labels(duty=self.name).inc()
            log.warning("chore_failed", chore=self.name, error_code=exc.code, error_message=exc.message)
            self._next_at = now + _PAUSE
            return
        self._next_at = now if more else now + self._every
