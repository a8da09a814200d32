"""What the status consumer counts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram


class ConsumerMetrics:
    """Figures of one consumer process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.applied = Counter(
            "atelier_status_events_applied_total", "Events applied to the view.", ["type"], registry=self.registry
        )
        self.batch_size = Histogram(
            "atelier_status_batch_events",
            "Events applied in one transaction.",
            buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500),
            registry=self.registry,
        )
        self.lag = Histogram(
            "atelier_status_lag_seconds",
            "Time from an event to its place in the view.",
            buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300),
            registry=self.registry,
        )
        self.parked = Counter(
            "atelier_status_parked_total", "Messages parked for operators.", ["reason"], registry=self.registry
        )
        self.returned = Counter(
            "atelier_status_returned_total",
            "Tasks that came back from a work queue, by what became of them.",
            ["fate"],
            registry=self.registry,
        )
