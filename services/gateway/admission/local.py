"""Admission in one process while the shared ledger is away: the same rates by memory, the bound by the broker."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from services.gateway.admission.errors import QueueFullError, RateLimitedError
from services.gateway.admission.ports import Admitted, Window
from services.gateway.admission.verdicts import drain_seconds, refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.gateway.admission.ports import Application

_MOST_SUBJECTS: Final = 100_000
# A step's error must not refuse the last request of a burst.
_TOLERANCE_SECONDS: Final = 0.0005


class LocalAdmission:
    """Rates by the same algorithm (GCRA), each process for itself; how many tasks wait is what the broker says.

    What a tenant has outstanding is not known here: its caps and its day's budget do not bind meanwhile. ``depth`` may
    be a quarter of a second old, so tasks taken since it was read are counted on top.
    """

    def __init__(
        self,
        depth: Callable[[str], tuple[int, float]],
        workers: Callable[[str], int] = lambda _model: 1,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._depth = depth
        self._workers = workers
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[tuple[str, int], float] = OrderedDict()
        self._taken: dict[str, list[float]] = {}

    def admit(self, application: Application) -> Admitted:
        """See Admission. ``depth`` of the model comes with the time at which it was read."""
        now = self._clock()
        with self._lock:
            wait = self._wait(application, now)
            waiting = self._waiting(application.model) if application.takes_place else 0
            full = application.takes_place and waiting >= application.bound
            code = RateLimitedError.code if wait else QueueFullError.code if full else None
            if code is None:
                self._take(application, now)
            found = Admitted(
                model_work=application.gpu_seconds * waiting,
                waiting=waiting,
                windows=tuple(self._windows(application, now)),
                degraded=True,
            )
        if code is None:
            return found
        drain = drain_seconds(found, self._workers(application.model))
        raise refusal(code, application, found, wait=wait, drain=drain)

    def _wait(self, application: Application, now: float) -> float:
        waits = [0.0]
        for rate in application.rates:
            after = max(self._buckets.get((application.subject, rate.seconds), 0.0), now) + rate.seconds / rate.requests
            waits.append(after - rate.seconds - now)
        longest = max(waits)
        return longest if longest > _TOLERANCE_SECONDS else 0.0

    def _take(self, application: Application, now: float) -> None:
        for rate in application.rates:
            key = (application.subject, rate.seconds)
            self._buckets[key] = max(self._buckets.get(key, 0.0), now) + rate.seconds / rate.requests
            self._buckets.move_to_end(key)
        while len(self._buckets) > _MOST_SUBJECTS:
            self._buckets.popitem(last=False)
        if application.takes_place:
            self._taken.setdefault(application.model, []).append(now)

    def _waiting(self, model: str) -> int:
        depth, read_at = self._depth(model)
        since = [taken for taken in self._taken.get(model, ()) if taken >= read_at]
        self._taken[model] = since
        return depth + len(since)

    def _windows(self, application: Application, now: float) -> list[Window]:
        windows = []
        for rate in application.rates:
            filled = max(0.0, self._buckets.get((application.subject, rate.seconds), 0.0) - now)
            remaining = int((rate.seconds - filled) * rate.requests / rate.seconds + 0.001)
            windows.append(Window(rate=rate, remaining=max(0, remaining), reset_seconds=filled))
        return windows
