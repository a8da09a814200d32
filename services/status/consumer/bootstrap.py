"""The status consumer's composition root: settings in, a wired process out."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

from services.status.consumer.events import EventLoop
from services.status.consumer.loops import ReturnedLoop
from services.status.consumer.metrics import ConsumerMetrics
from services.status.consumer.parking import Parking
from services.status.consumer.returned import ReturnedTasks
from services.status.errors import ViewStoreError
from services.status.store.database import open_database
from shared.clock import utc_now
from shared.health import Health, HealthServer
from shared.ids import new_execution_id
from shared.logging import get_logger
from shared.messaging.consumer import PrefetchingConsumer
from shared.messaging.publisher import ThreadedPublisher
from shared.messaging.topology import STATUS_EVENTS, STATUS_RETURNED
from shared.storage.records import TaskRecords
from shared.storage.s3 import S3Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from services.status.config import StatusConsumerSettings
    from services.status.store.ports import TaskViewStore
    from services.status.store.sql import SqlTaskViewStore
    from shared.lifecycle import StopSignal

log = get_logger(__name__)

EVENTS_PREFETCH: Final = 1000
RETURNED_PREFETCH: Final = 16

Loops = tuple["Callable[[StopSignal], None]", ...]


@contextmanager
def status_consumer(settings: StatusConsumerSettings) -> Iterator[Loops]:
    """Build everything, start what runs in the background, and end it in the reverse order. Yields the loops to run.

    Raises ConfigurationError for settings that cannot be used, ViewStoreError for a database that does not answer.
    """
    url = settings.amqp_url.get_secret_value()
    metrics = ConsumerMetrics()
    with ExitStack() as stack:
        database = open_database(settings.database_url.get_secret_value(), feed=new_execution_id())
        stack.callback(database.close)
        store = database.views
        stack.callback(_leave, store)
        objects = S3Store(settings)
        publisher = ThreadedPublisher(url, "status.publish", settings.queue_type)
        events = PrefetchingConsumer(url, "status.events", STATUS_EVENTS, EVENTS_PREFETCH)
        returned = PrefetchingConsumer(url, "status.returned", STATUS_RETURNED, RETURNED_PREFETCH)
        for part in (publisher, events, returned):
            part.start()
            stack.callback(part.stop)
        if settings.metrics_port:
            health = Health(
                {
                    "events": lambda: _connection(up=events.connected),
                    "returned": lambda: _connection(up=returned.connected),
                    "publisher": lambda: _connection(up=publisher.connected),
                    "database": lambda: database_problem(store),
                }
            )
            server = HealthServer(health, metrics.registry, settings.metrics_port, settings.metrics_host)
            server.start()
            stack.callback(server.stop)
        parking = Parking(publisher, metrics, utc_now)
        event_loop = EventLoop(
            consumer=events,
            connected=lambda: events.connected,
            store=store,
            parking=parking,
            metrics=metrics,
            clock=utc_now,
        )
        tasks = ReturnedTasks(
            records=TaskRecords(objects),
            publisher=publisher,
            settler=returned,
            parking=parking,
            metrics=metrics,
            clock=utc_now,
        )
        returned_loop = ReturnedLoop(consumer=returned, tasks=tasks, prove_store=objects.probe)
        yield event_loop.run, returned_loop.run


def _leave(store: SqlTaskViewStore) -> None:
    try:
        store.leave()
    except ViewStoreError as exc:  # it is known to be gone after a while
        log.warning("feed_not_left", error_message=exc.message)


def database_problem(store: TaskViewStore) -> str | None:
    """What keeps the database from being written, or None."""
    try:
        store.check()
    except ViewStoreError as exc:
        return exc.message
    return None


def _connection(*, up: bool) -> str | None:
    return None if up else "not connected"
