"""The events of streams, as bytes: an id, a name and JSON (https://html.spec.whatwg.org/multipage/server-sent-events.html).

Nothing but an event ends with an empty line: some clients take whatever comes before one for an event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from services.status.api.answers import CLIENT_STATES, artifact_path, fraction_of
from services.status.news import News
from shared.contracts.event import SEQUENCE_ENDED
from shared.domain.task import EventType

if TYPE_CHECKING:
    from services.status.api.answers import TaskAnswer
    from services.status.streams.places import Place
    from services.status.view import TaskView
    from shared.contracts.event import Progress

# How long a client shall wait before it comes again.
RETRY: Final = b"retry: 2000\n"


def news_event(place: Place, news: News, *, named: bool) -> bytes:
    """One step of a task. What there is nothing to say of is left out."""
    data: dict[str, Any] = {
        "task_id": news.task_id,
        "type": news.type,
        "state": news.state,
        "client_state": CLIENT_STATES[news.state],
        "attempt": news.attempt,
        "at": news.at,
    }
    if named:
        data["tenant_id"] = news.tenant_id
    if news.model is not None:
        data["model"] = news.model
    if news.progress is not None:
        data["progress"] = _progress(news.progress)
    if news.error is not None:
        data["error"] = news.error.model_dump()
    if news.delay_seconds is not None:
        data["delay_seconds"] = news.delay_seconds
    if news.artifacts:
        data["artifacts"] = [artifact_path(news.task_id, index) for index in range(news.artifacts)]
    return _event(news.type, place, orjson.dumps(data, option=orjson.OPT_UTC_Z))


def snapshot_event(place: Place, answer: TaskAnswer) -> bytes:
    """The whole task, as its own address answers it."""
    return _event("snapshot", place, answer.model_dump_json().encode())


def ready_event(place: Place) -> bytes:
    """From here on nothing is missed."""
    return _event("ready", place, b"{}")


def resync_event(place: Place) -> bytes:
    """News may have been missed before this."""
    return _event("resync", place, b'{"reason":"news may have been missed: list the tasks again"}')


def last_news(view: TaskView) -> News:
    """The end of a task that has ended, from its view."""
    return News(
        task_id=view.task_id,
        tenant_id=view.tenant_id,
        model=view.submission.model if view.submission else None,
        type=EventType(view.state),
        state=view.state,
        attempt=view.attempt,
        sequence=SEQUENCE_ENDED,
        at=view.ended_at or view.updated_at,
        error=view.error,
        artifacts=len(view.artifacts),
    )


def _progress(progress: Progress) -> dict[str, Any]:
    told: dict[str, Any] = {
        "phase": progress.phase,
        "step": progress.step,
        "steps": progress.steps,
        "fraction": fraction_of(progress),
    }
    if progress.preview is not None:
        told["preview"] = progress.preview.model_dump()
    return told


def _event(name: str, place: Place, data: bytes) -> bytes:
    # JSON of orjson's and pydantic's has no line ends in it.
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (str(place).encode(), name.encode(), data)
