"""The open streams of a process: how many there may be, and who looks after them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from services.status.errors import StreamsFullError, TooManyStreamsError
from services.status.streams.stream import NewsStream
from shared.domain.plans import is_anonymous
from shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.status.streams.follow import Course, Sources
    from services.status.streams.metrics import StreamMetrics

log = get_logger(__name__)

TEND_SECONDS: Final = 1.0
POLL: Final = "poll"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLimits:
    """How many streams and long polls a process has; each tenant may have ``per_tenant`` of either kind.

    A heartbeat follows so many seconds of silence.
    """

    all: int
    per_tenant: int
    heartbeat_seconds: float


class Slot:
    """Room for one stream. It is given back once, by the stream's end or by whoever could not open one."""

    __slots__ = ("_registry", "kind", "owner")

    def __init__(self, registry: StreamRegistry, kind: str, owner: str) -> None:
        self._registry: StreamRegistry | None = registry
        self.kind = kind
        self.owner = owner

    def give_back(self) -> None:
        """Let another stream have it."""
        registry, self._registry = self._registry, None
        if registry is not None:
            registry.free(self)


class StreamRegistry:
    """Bounds the streams and tends them; ``tend`` is for a thread of its own to repeat."""

    def __init__(
        self, limits: StreamLimits, sources: Sources, metrics: StreamMetrics, *, clock: Callable[[], float]
    ) -> None:
        self._limits = limits
        self._sources = sources
        self._metrics = metrics
        self._clock = clock
        self._taken: Counter[tuple[bool, str]] = Counter()
        self._total = 0
        self._strangers = 0
        self._open: dict[NewsStream, Slot] = {}

    def take(self, kind: str, owner: str) -> Slot:
        """Room for one more stream, or long poll, of a tenant. Raises TooManyStreamsError, StreamsFullError."""
        error: type[TooManyStreamsError | StreamsFullError] | None = None
        if self._taken[_line(kind, owner)] >= self._limits.per_tenant:
            error = TooManyStreamsError
        # Whoever has no key has a line for each address: together they leave room for all others.
        elif self._total >= self._limits.all or (is_anonymous(owner) and self._strangers >= self._limits.all // 4):
            error = StreamsFullError
        if error is not None:
            self._metrics.refused.labels(error.code).inc()
            raise error
        self._taken[_line(kind, owner)] += 1
        self._total += 1
        self._strangers += is_anonymous(owner)
        return Slot(self, kind, owner)

    def free(self, slot: Slot) -> None:
        """See Slot.give_back."""
        line = _line(slot.kind, slot.owner)
        self._total -= 1
        self._strangers -= is_anonymous(slot.owner)
        self._taken[line] -= 1
        if not self._taken[line]:
            del self._taken[line]

    def open(self, slot: Slot, course: Course, in_force: Callable[[], bool]) -> NewsStream:
        """The stream that takes a slot; it ends by its ``close``."""
        stream = NewsStream(course, in_force, self._sources, clock=self._clock, on_close=self._closed)
        self._open[stream] = slot
        self._metrics.open.labels(slot.kind).inc()
        return stream

    def tend(self) -> float:
        """One round: heartbeats, clients that take nothing, keys. Returns the seconds until the next."""
        streams = list(self._open)
        now = self._clock()
        for stream in streams:
            stream.tend(now, self._limits.heartbeat_seconds)
        self._metrics.sent.inc(sum(stream.count_sent() for stream in streams))
        for stream in streams:
            stream.recheck(now)
        return TEND_SECONDS

    def _closed(self, stream: NewsStream) -> None:
        slot = self._open.pop(stream)
        slot.give_back()
        self._metrics.open.labels(slot.kind).dec()
        self._metrics.ended.labels(stream.end).inc()
        self._metrics.sent.inc(stream.count_sent())
        seconds = round(self._clock() - stream.began_at, 3)
        log.info("stream_ended", kind=slot.kind, reason=stream.end, events=stream.sent, seconds=seconds)


def _line(kind: str, owner: str) -> tuple[bool, str]:
    return kind == POLL, owner
