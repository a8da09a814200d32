"""How many callbacks each line may have under way, and which lines are left alone for a while. Pure, of one process.

A line is one tenant's callbacks to one host. Failures count for a line and not for a host: else a tenant could name
another one's host with a path or port that fails, and have that host left alone.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from services.status.webhooks.deliveries import host_of, tenant_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from services.status.webhooks.deliveries import Line

_MOST_KNOWN: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Callbacks under way at once: of all, of a tenant, to a host whosever they are, and of a line.

    After ``failures`` in a row a line is left alone for ``pause`` seconds, twice as long after each failure more, up to
    ``longest_pause``; then one callback tries.
    """

    slots: int = 64
    tenant: int = 16
    host: int = 16
    line: int = 4
    failures: int = 5
    pause: float = 10.0
    longest_pause: float = 600.0


@dataclass(slots=True)
class _Trouble:
    failures: int
    alone_until: datetime | None = None


class Crowd:
    """Thread-safe."""

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._lock = threading.Lock()
        self._lines: Counter[str] = Counter()
        self._tenants: Counter[str] = Counter()
        self._hosts: Counter[str] = Counter()
        self._troubles: dict[str, _Trouble] = {}

    @property
    def under_way(self) -> int:
        """How many callbacks are being made."""
        return self._lines.total()

    def left_alone(self, now: datetime) -> int:
        """How many lines are left alone."""
        with self._lock:
            alone = [trouble.alone_until for trouble in self._troubles.values()]
        return sum(until is not None and until > now for until in alone)

    def places(self, lines: Sequence[Line], now: datetime) -> dict[str, int]:
        """How many more each line may begin.

        Each gets one before any gets a second, and who has least under way comes first.
        """
        limits, given = self._limits, Counter[str]()
        with self._lock:
            free = limits.slots - self._lines.total()
            tenants, hosts, under_way = self._tenants.copy(), self._hosts.copy(), self._lines.copy()
            most = {line.name: self._most(line.name, now) - self._lines[line.name] for line in lines}
        # By name alone the first few tenants of a host that all call would have it for themselves.
        order = sorted(lines, key=lambda line: (tenants[line.tenant_id], under_way[line.name], line.first_due))
        for _ in range(limits.line):
            for line in order:
                within = tenants[line.tenant_id] < limits.tenant and hosts[line.host] < limits.host
                if free > 0 and within and given[line.name] < most[line.name]:
                    free -= 1
                    given[line.name] += 1
                    tenants[line.tenant_id] += 1
                    hosts[line.host] += 1
        return dict(given)

    def begin(self, name: str) -> None:
        """One more of a line is under way."""
        self._count(name, 1)

    def end(self, name: str, *, healthy: bool | None, now: datetime) -> None:
        """One has come back. ``healthy``: its host answered, and can bear more; None where it was not asked."""
        self._count(name, -1)
        with self._lock:
            if healthy:
                self._troubles.pop(name, None)
            elif healthy is not None:
                self._worsen(name, now)

    def _count(self, name: str, change: int) -> None:
        counters = ((self._lines, name), (self._tenants, tenant_of(name)), (self._hosts, host_of(name)))
        with self._lock:
            for counter, key in counters:
                counter[key] += change
                if not counter[key]:
                    del counter[key]

    def _most(self, name: str, now: datetime) -> int:
        trouble = self._troubles.get(name)
        if trouble is None or trouble.alone_until is None:
            return self._limits.line
        return 0 if trouble.alone_until > now else 1

    def _worsen(self, name: str, now: datetime) -> None:
        limits = self._limits
        trouble = self._troubles.pop(name, None) or _Trouble(0)
        trouble.failures += 1
        beyond = trouble.failures - limits.failures
        if beyond >= 0:
            # Those that were under way together fail together: that is one failure more and not several.
            if trouble.alone_until is not None and trouble.alone_until > now:
                trouble.failures -= 1
            else:
                seconds = min(limits.pause * 2.0 ** min(beyond, 30), limits.longest_pause)
                trouble.alone_until = now + timedelta(seconds=seconds)
        self._troubles[name] = trouble
        if len(self._troubles) > _MOST_KNOWN:
            del self._troubles[next(iter(self._troubles))]
