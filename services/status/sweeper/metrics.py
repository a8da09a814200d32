"""What the status sweeper counts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class SweeperMetrics:
    """Figures of one sweeper process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.acting = Gauge("atelier_sweeper_acting", "1 for the replica that holds the lease.", registry=self.registry)
        self.pass_seconds = Histogram(
            "atelier_sweeper_pass_seconds",
            "What one pass took.",
            buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
            registry=self.registry,
        )
        self.late = Counter(
            "atelier_sweeper_late_total",
            "Waiting tasks past their deadline, by what became of them.",
            ["fate"],
            registry=self.registry,
        )
        self.lifted = Counter(
            "atelier_sweeper_lifted_total",
            "Tasks published again at a higher level.",
            ["model"],
            registry=self.registry,
        )
        self.compared = Counter(
            "atelier_sweeper_compared_total",
            "Tasks of which nothing was heard, by what the bucket said of them and what became of them.",
            ["fate"],
            registry=self.registry,
        )
        self.failed = Counter(
            "atelier_sweeper_failed_total",
            "Tasks, and whole passes, that could not be seen to.",
            ["duty"],
            registry=self.registry,
        )
