"""The status API's composition root: settings in, what the application works with out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from services.status.app import Dependencies
from services.status.errors import ViewStoreError
from services.status.lookup import TaskFinder
from services.status.store.database import open_database
from services.status.waiting import PollingWaiter
from shared.auth.bootstrap import key_store
from shared.auth.plans import load_plans
from shared.clock import utc_now
from shared.health import Health
from shared.http.auth import gatekeeper
from shared.storage.records import TaskRecords
from shared.storage.s3 import S3Store

if TYPE_CHECKING:
    from services.status.config import StatusApiSettings
    from services.status.store.ports import TaskViewStore


def status_api(settings: StatusApiSettings) -> Dependencies:
    """Build everything, in the process that serves: connections must not be shared over a fork.

    Raises ConfigurationError for settings that cannot be used, ViewStoreError for a database that does not answer.
    """
    store = open_database(settings.database_url.get_secret_value()).views
    objects = S3Store(settings)
    registry = CollectorRegistry()
    plans = load_plans(settings.plans_file)
    keys = key_store(settings, plans, registry)
    finder = TaskFinder(
        store=store,
        waiter=PollingWaiter(store, clock=time.monotonic, sleep=time.sleep),
        records=TaskRecords(objects),
        clock=utc_now,
    )
    return Dependencies(
        finder=finder,
        objects=objects,
        gatekeeper=gatekeeper(keys, settings, plans.anonymous, registry),
        health=Health({"database": lambda: _database_problem(store), "keys": keys.problem}, {"keys": keys.warning}),
        registry=registry,
        views=store,
        operator_key=settings.operator_key.get_secret_value() if settings.operator_key else None,
    )


def _database_problem(store: TaskViewStore) -> str | None:
    # The bucket is no part of this: without it states are answered still.
    try:
        store.seen_until()
    except ViewStoreError as exc:
        return exc.message
    return None
