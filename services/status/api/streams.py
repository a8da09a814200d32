"""Streams of events: of one task, and of all tasks of a tenant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from flask import Blueprint, Response, request

from services.status.api.answers import task_answer
from services.status.api.stream_events import RETRY, last_news, news_event, ready_event, resync_event, snapshot_event
from services.status.api.tasks import urls_of
from services.status.streams.bulletins import EVERYTHING, task_topic, tenant_topic
from services.status.streams.connection import connection_of
from services.status.streams.follow import Course
from services.status.streams.places import Place, read_place
from services.status.streams.stream import NewsStream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import WSGIEnvironment

    from services.status.api.access import TaskAccess
    from services.status.api.readers import Readers
    from services.status.store.ports import NewsLog
    from services.status.streams.registry import Slot, StreamRegistry
    from services.status.view import TaskView
    from shared.auth.ports import Principal
    from shared.storage.ports import ObjectStore

_OPERATORS: Final = "*"  # no tenant's id


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamParts:
    """What streams are made of."""

    news: NewsLog
    registry: StreamRegistry
    access: TaskAccess
    readers: Readers
    objects: ObjectStore


class _StreamResponse(Response):
    """Hands the stream itself to the server, so that nothing of Flask's lives as long as it does."""

    def get_app_iter(self, environ: WSGIEnvironment) -> Iterable[bytes]:
        if isinstance(self.response, NewsStream):
            self.response.attach(connection_of(environ))
        environ.pop("werkzeug.request", None)
        return super().get_app_iter(environ)


def streams_blueprint(parts: StreamParts) -> Blueprint:
    """``/api/v1/tasks/<id>/events`` and ``/api/v1/events``."""
    blueprint = Blueprint("streams", __name__)

    @blueprint.get("/api/v1/tasks/<task_id>/events")
    def of_task(task_id: str) -> Response:
        reader = parts.access.reader()
        in_force = parts.access.recheck(reader)
        slot = parts.registry.take("task", reader.tenant_id)
        return _opened(parts, slot, in_force, lambda: _task_course(parts, reader, task_id))

    @blueprint.get("/api/v1/events")
    def of_tenant() -> Response:
        reader = parts.readers.reader()
        kind = "operator" if reader.tenant_id is None else "tenant"
        slot = parts.registry.take(kind, reader.tenant_id or _OPERATORS)
        return _opened(parts, slot, reader.in_force, lambda: _tenant_course(parts, reader.tenant_id))

    return blueprint


def _opened(
    parts: StreamParts, slot: Slot, in_force: Callable[[], bool], plot: Callable[[], Course | None]
) -> Response:
    try:
        course = plot()
        if course is None:
            slot.give_back()
            return _nothing_more()
        stream = parts.registry.open(slot, course, in_force)
    except BaseException:
        slot.give_back()
        raise
    response = _StreamResponse(stream, content_type="text/event-stream", direct_passthrough=True)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"
    return response


def _nothing_more() -> Response:
    # To clients that come again by themselves this says that they need not (the standard's way).
    response = Response(status=204, headers={"Cache-Control": "no-store"})
    del response.headers["Content-Type"]
    return response


def _task_course(parts: StreamParts, reader: Principal, task_id: str) -> Course | None:
    # The place comes first: a view that is read later holds at least what was logged before it.
    newest = _newest(parts.news)
    view = parts.access.find(reader, task_id)
    start = _resumed(parts.news, newest)
    if start is not None:
        if view.state.is_final and not parts.news.after(start.position, 1, task_id=task_id):
            return None
        greeting, shown = RETRY, None
    else:
        answer = task_answer(view, urls_of(parts.objects, view), parts.access.standing(view))
        greeting, shown = RETRY + snapshot_event(newest, answer), (view.attempt, view.sequence)
    return Course(
        topic=task_topic(task_id),
        start=start or newest,
        newest=newest.position,
        greeting=greeting,
        task_id=task_id,
        farewell=_farewell(newest, view),
        shown=shown,
    )


def _tenant_course(parts: StreamParts, tenant_id: str | None) -> Course:
    newest = _newest(parts.news)
    start = _resumed(parts.news, newest)
    greeting = RETRY
    if start is None:
        greeting += resync_event(newest) if "Last-Event-ID" in request.headers else ready_event(newest)
    return Course(
        topic=EVERYTHING if tenant_id is None else tenant_topic(tenant_id),
        start=start or newest,
        newest=newest.position,
        greeting=greeting,
        tenant_id=tenant_id,
        named=tenant_id is None,
    )


def _farewell(newest: Place, view: TaskView) -> bytes | None:
    return news_event(newest, last_news(view), named=False) if view.state.is_final else None


def _newest(news: NewsLog) -> Place:
    return Place(news.epoch(), news.latest())


def _resumed(news: NewsLog, newest: Place) -> Place | None:
    """The place that the client has come to, where the log still has all that came after."""
    place = read_place(request.headers.get("Last-Event-ID", ""))
    if place is None or place.epoch != newest.epoch or not news.oldest() - 1 <= place.position <= newest.position:
        return None
    return place
