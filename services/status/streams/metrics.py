"""What the streams of a process count."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, Histogram

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


class StreamMetrics:
    """Figures of one process, in the registry of its API."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.open = Gauge("atelier_streams_open", "Streams that are open.", ["kind"], registry=registry)
        self.ended = Counter(
            "atelier_streams_ended_total",
            "Streams that ended; slow and stalled ones were dropped.",
            ["reason"],
            registry=registry,
        )
        self.refused = Counter("atelier_streams_refused_total", "Streams refused.", ["code"], registry=registry)
        self.sent = Counter("atelier_stream_events_sent_total", "Events sent to streams.", registry=registry)
        self.lag = Histogram(
            "atelier_stream_lag_seconds",
            "Time from an event to the streams that are told of it.",
            buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60),
            registry=registry,
        )
