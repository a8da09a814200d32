"""The status API as a Flask application."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flask import Flask

from services.status.api.access import TaskAccess
from services.status.api.admin import admin_blueprint
from services.status.api.artifacts import artifacts_blueprint
from services.status.api.cancel import cancel_blueprint
from services.status.api.listing import listing_blueprint
from services.status.api.problems import REFUSALS
from services.status.api.readers import Readers
from services.status.api.streams import StreamParts, streams_blueprint
from services.status.api.tasks import tasks_blueprint
from services.status.api.webhooks import webhooks_blueprint
from shared.clock import utc_now
from shared.http.health import health_blueprint
from shared.http.metrics import install_metrics
from shared.http.problems import install_problems
from shared.http.request_context import install_request_context

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from services.status.cancelling import Cancelling
    from services.status.lookup import TaskFinder
    from services.status.store.ports import NewsLog, TaskViewStore
    from services.status.streams.registry import StreamRegistry
    from services.status.webhooks.ports import DeliveryStore
    from shared.clock import Clock
    from shared.health import Health
    from shared.http.auth import Gatekeeper
    from shared.storage.ports import ObjectStore


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    """What the application works with."""

    finder: TaskFinder
    objects: ObjectStore
    gatekeeper: Gatekeeper
    health: Health
    registry: CollectorRegistry
    views: TaskViewStore
    cancelling: Cancelling
    deliveries: DeliveryStore
    news: NewsLog
    streams: StreamRegistry
    operator_key: str | None = None
    clock: Clock = utc_now


def create_app(parts: Dependencies) -> Flask:
    """The application; it does nothing before its first request."""
    app = Flask("services.status", static_folder=None)
    install_request_context(app)
    install_metrics(app, parts.registry)
    install_problems(app, REFUSALS)
    access = TaskAccess(parts.finder, parts.gatekeeper)
    app.register_blueprint(tasks_blueprint(access, parts.objects, parts.streams))
    app.register_blueprint(cancel_blueprint(access, parts.cancelling))
    app.register_blueprint(artifacts_blueprint(access, parts.objects))
    app.register_blueprint(webhooks_blueprint(access, parts.gatekeeper, parts.deliveries, parts.clock))
    readers = Readers(parts.gatekeeper, parts.operator_key)
    app.register_blueprint(listing_blueprint(parts.views, readers))
    app.register_blueprint(streams_blueprint(_stream_parts(parts, access, readers)))
    if parts.operator_key is not None:
        app.register_blueprint(admin_blueprint(parts.views, parts.gatekeeper, parts.operator_key))
    app.register_blueprint(health_blueprint(parts.health, parts.registry))
    return app


def _stream_parts(parts: Dependencies, access: TaskAccess, readers: Readers) -> StreamParts:
    return StreamParts(news=parts.news, registry=parts.streams, access=access, readers=readers, objects=parts.objects)
