"""What a worker counts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class WorkerMetrics:
    """Counters of one worker process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.tasks_ended = Counter(
            "atelier_worker_tasks_ended_total", "Tasks this worker ended.", ["state"], registry=self.registry
        )
        self.tasks_reused = Counter(
            "atelier_worker_tasks_reused_total", "Tasks ended by what another made.", registry=self.registry
        )
        self.attempts_failed = Counter(
            "atelier_worker_attempts_failed_total", "Attempts that failed here.", ["code"], registry=self.registry
        )
        self.busy_seconds = Counter(
            "atelier_worker_busy_seconds_total", "Seconds in which the device computed.", registry=self.registry
        )
        self.computing = Gauge("atelier_worker_computing", "1 while a task is being computed.", registry=self.registry)
