"""How often one address may fail to prove who it is, counted in this process alone."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from prometheus_client import Counter

from shared.auth.errors import TooManyFailuresError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client import CollectorRegistry

_MOST_ADDRESSES: Final = 100_000
_WINDOW_SECONDS: Final = 60.0


class FailureBuckets:
    """For each address a bucket of ``per_minute`` failures, filled again at the same rate (GCRA).

    What a failure costs is work of this process, so its count is not shared with other replicas.
    """

    def __init__(
        self, per_minute: int, *, registry: CollectorRegistry, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._step = _WINDOW_SECONDS / per_minute
        self._clock = clock
        self._lock = threading.Lock()
        # When a bucket would be full again.
        self._full_at: OrderedDict[str, float] = OrderedDict()
        self._trying: set[tuple[str, str]] = set()
        self._refused = Counter(
            "atelier_auth_throttled", "Requests refused for the failures of their address.", registry=registry
        )

    def check(self, address: str) -> None:
        """Raise TooManyFailuresError while the bucket of the address is empty."""
        with self._lock:
            wait = self._wait(address, self._clock())
        self._refuse(wait)

    def count(self, address: str) -> None:
        """Take a failure out of the bucket. Raises TooManyFailuresError when it was empty."""
        with self._lock:
            wait = self._take(address)
        self._refuse(wait)

    @contextmanager
    def attempt(self, address: str, what: str) -> Iterator[Callable[[], None]]:
        """Try something that takes time. A failure is taken before and given back, unless the block calls what it gets.

        So attempts side by side cannot pass the bound. Those at the same thing count once: a client that opens many
        connections with a good key is no guesser. Raises TooManyFailuresError before the block when none is left.
        """
        with self._lock:
            joins = (address, what) in self._trying
            wait = 0.0 if joins else self._take(address)
            if not wait:
                self._trying.add((address, what))
        self._refuse(wait)
        failed = False

        def fail() -> None:
            nonlocal failed
            failed = True

        try:
            yield fail
        finally:
            if not joins:
                with self._lock:
                    self._trying.discard((address, what))
                    if not failed:
                        self._give_back(address)

    def _wait(self, address: str, now: float) -> float:
        after = max(self._full_at.get(address, 0.0), now) + self._step
        early = after - _WINDOW_SECONDS - now
        # The last one of a burst must not be refused for a rounding error.
        return early if early > self._step / 1000 else 0.0

    def _take(self, address: str) -> float:
        now = self._clock()
        wait = self._wait(address, now)
        if not wait:
            self._full_at[address] = max(self._full_at.get(address, 0.0), now) + self._step
            self._full_at.move_to_end(address)
            while len(self._full_at) > _MOST_ADDRESSES:
                self._full_at.popitem(last=False)
        return wait

    def _give_back(self, address: str) -> None:
        if address in self._full_at:
            self._full_at[address] -= self._step

    def _refuse(self, wait: float) -> None:
        if wait:
            self._refused.inc()
            raise TooManyFailuresError(retry_after_seconds=wait)
