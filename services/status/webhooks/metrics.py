"""What the sender of callbacks counts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class WebhookMetrics:
    """Figures of one sender, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.tries = Counter(
            "atelier_webhooks_tries_total",
            "Tries, by what came of them: a class of statuses, or the code of an error.",
            ["result"],
            registry=self.registry,
        )
        self.ended = Counter(
            "atelier_webhooks_ended_total", "Callbacks that have ended, by how.", ["state"], registry=self.registry
        )
        self.seconds = Histogram(
            "atelier_webhooks_try_seconds",
            "What one try took.",
            buckets=(0.01, 0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 15),
            registry=self.registry,
        )
        self.lag = Histogram(
            "atelier_webhooks_lag_seconds",
            "From an event to the first try to tell it.",
            buckets=(0.1, 0.25, 0.5, 1, 2, 5, 15, 60, 300, 3600),
            registry=self.registry,
        )
        self.under_way = Gauge("atelier_webhooks_under_way", "Callbacks that are being made.", registry=self.registry)
        self.left_alone = Gauge(
            "atelier_webhooks_lines_left_alone",
            "Tenants' hosts that fail and wait for a probe.",
            registry=self.registry,
        )
        self.failed = Counter(
            "atelier_webhooks_failed_total", "What the database did not let be done.", ["step"], registry=self.registry
        )
