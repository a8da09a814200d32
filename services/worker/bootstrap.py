"""The worker's composition root: settings in, a wired process out."""

from __future__ import annotations

import ctypes
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

from services.worker.child import LaunchPlan
from services.worker.config import child_environment
from services.worker.finisher import Finisher, Reporting
from services.worker.handler import TaskHandler, WorkerIdentity
from services.worker.loop import WorkerLoop
from services.worker.metrics import WorkerMetrics
from services.worker.relay import EventRelay
from services.worker.sandbox import Sandboxes
from services.worker.settling import Settling
from services.worker.supervisor import RunnerState, Supervisor
from shared.clock import utc_now
from shared.contracts.model_card import load_model_card
from shared.health import Health, HealthServer
from shared.messaging.consumer import LateConsumer
from shared.messaging.publisher import ThreadedPublisher
from shared.messaging.topology import work_queue
from shared.storage.records import TaskRecords
from shared.storage.s3 import S3Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.worker.config import WorkerSettings
    from shared.contracts.model_card import ModelCard

_PR_SET_DUMPABLE: Final = 4


@contextmanager
def worker(settings: WorkerSettings) -> Iterator[WorkerLoop]:
    """Build everything, start what runs in the background, and end it in the reverse order.

    Raises ConfigurationError for a model folder, card or bucket that cannot be used, StorageError for a silent store.
    """
    hide_memory()
    card = load_model_card(settings.models_dir / settings.worker_model)
    store = S3Store(settings)
    store.probe()
    sandboxes = Sandboxes(settings.work_dir / settings.worker_id)
    sandboxes.sweep()
    url, name = settings.amqp_url.get_secret_value(), f"worker.{settings.worker_id}"
    publisher = ThreadedPublisher(url, f"{name}.publish")
    consumer = LateConsumer(url, f"{name}.consume", work_queue(card.id))
    relay, metrics = EventRelay(publisher), WorkerMetrics()
    supervisor = _supervisor(settings, card)
    records = TaskRecords(store)
    settling = Settling(
        records=records, publisher=publisher, settler=consumer, clock=utc_now, worker_id=settings.worker_id
    )
    handler = TaskHandler(
        records=records,
        settling=settling,
        runner=supervisor,
        events=relay,
        sandboxes=sandboxes,
        identity=WorkerIdentity(worker_id=settings.worker_id, clock=utc_now),
    )
    finisher = Finisher(
        store=store,
        settling=settling,
        handler=handler,
        runner=supervisor,
        sandboxes=sandboxes,
        reporting=Reporting(utc_now, metrics),
    )
    with ExitStack() as stack:
        stack.callback(sandboxes.sweep)
        for part in (publisher, consumer, relay):
            part.start()
            stack.callback(part.stop)
        stack.callback(supervisor.stop, settings.drain_seconds)
        if settings.metrics_port:
            health = _health(consumer, publisher, supervisor)
            server = HealthServer(health, metrics.registry, settings.metrics_port)
            server.start()
            stack.callback(server.stop)
        yield WorkerLoop(
            consumer=consumer, runner=supervisor, handler=handler, finisher=finisher, settling=settling, metrics=metrics
        )


def _supervisor(settings: WorkerSettings, card: ModelCard) -> Supervisor:
    model_dir = settings.models_dir / settings.worker_model
    plan = LaunchPlan(
        backend=card.model.backend,
        model_dir=model_dir,
        device=settings.device,
        tier=settings.memory_tier,
        environment=child_environment(),
    )
    return Supervisor(plan, sum(path.stat().st_size for path in model_dir.rglob("*.safetensors")))


def _health(consumer: LateConsumer, publisher: ThreadedPublisher, supervisor: Supervisor) -> Health:
    return Health(
        {
            "consumer": lambda: None if consumer.connected else "not connected",
            "publisher": lambda: None if publisher.connected else "not connected",
            "runner": lambda: None if supervisor.state is RunnerState.READY else supervisor.state,
        }
    )


def hide_memory() -> None:
    """Make this process unreadable for others of the same user: the model's child must not find secrets here."""
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
