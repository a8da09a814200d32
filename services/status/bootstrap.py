"""The status API's composition root: settings in, what the application works with out."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from services.status.api.stream_events import news_event
from services.status.app import Dependencies
from services.status.cancelling import Cancelling
from services.status.errors import ViewStoreError
from services.status.lookup import TaskFinder
from services.status.store.database import open_database
from services.status.streams.background import repeat
from services.status.streams.follow import Sources
from services.status.streams.hub import NewsHub
from services.status.streams.metrics import StreamMetrics
from services.status.streams.registry import StreamLimits, StreamRegistry
from services.status.streams.waiter import HubWaiter
from shared.auth.bootstrap import key_store
from shared.auth.plans import load_plans
from shared.clock import utc_now
from shared.health import Health
from shared.http.auth import gatekeeper
from shared.messaging.gevent_publisher import GeventPublisher
from shared.storage.records import TaskRecords
from shared.storage.s3 import S3Store

if TYPE_CHECKING:
    from services.status.config import StatusApiSettings
    from services.status.store.ports import TaskViewStore


def status_api(settings: StatusApiSettings) -> Dependencies:
    """Build everything, in the process that serves: connections must not be shared over a fork.

    Raises ConfigurationError for settings that cannot be used, ViewStoreError for a database that does not answer.
    """
    database = open_database(settings.database_url.get_secret_value())
    store = database.views
    objects = S3Store(settings)
    registry = CollectorRegistry()
    plans = load_plans(settings.plans_file)
    keys = key_store(settings, plans, registry)
    records = TaskRecords(objects)
    publisher = GeventPublisher(settings.amqp_url.get_secret_value(), f"status-api.{os.getpid()}")
    publisher.start()
    metrics = StreamMetrics(registry)
    hub = NewsHub(database.news, news_event, metrics, clock=time.monotonic, now=utc_now)
    streams = StreamRegistry(
        _limits(settings),
        Sources(news=database.news, hub=hub, encode=news_event, sleep=time.sleep),
        metrics,
        clock=time.monotonic,
    )
    finder = TaskFinder(
        store=store,
        waiter=HubWaiter(store, hub, clock=time.monotonic),
        records=records,
        clock=utc_now,
    )
    cancelling = Cancelling(
        views=store,
        work=database.work,
        records=records,
        publisher=publisher,
        clock=utc_now,
        prove_store=objects.probe,
    )
    repeat(hub.look, "news-hub")
    repeat(streams.tend, "streams")
    return Dependencies(
        finder=finder,
        objects=objects,
        gatekeeper=gatekeeper(keys, settings, plans.anonymous, registry),
        health=Health(
            {"database": lambda: _database_problem(store), "keys": keys.problem},
            # Without it a cancel still ends its task; workers then learn of it some seconds later, from the bucket.
            {"keys": keys.warning, "broker": lambda: publisher.problem},
        ),
        registry=registry,
        views=store,
        cancelling=cancelling,
        deliveries=database.deliveries,
        news=database.news,
        streams=streams,
        operator_key=settings.operator_key.get_secret_value() if settings.operator_key else None,
    )


def _limits(settings: StatusApiSettings) -> StreamLimits:
    return StreamLimits(
        all=settings.max_streams,
        per_tenant=settings.max_streams_per_tenant,
        heartbeat_seconds=settings.stream_heartbeat_seconds,
    )


def _database_problem(store: TaskViewStore) -> str | None:
    # The bucket is no part of this: without it states are answered still.
    try:
        store.seen_until()
    except ViewStoreError as exc:
        return exc.message
    return None
