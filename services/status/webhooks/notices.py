"""Which events a client is called back for, and what it is told. Pure; a notice is stored with the state it tells."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from shared.domain.callbacks import USUAL_EVENTS
from shared.domain.task import EventType, TaskState

if TYPE_CHECKING:
    from datetime import datetime

    from services.status.news import News
    from services.status.view import TaskView


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One callback that is owed. ``webhook_id`` is the same however often the event is applied; ``body`` is JSON."""

    webhook_id: str
    task_id: str
    tenant_id: str
    url: str
    type: str
    body: str
    created_at: datetime


def notice_of(news: News, before: TaskView | None, view: TaskView) -> Notice | None:
    """The callback that news of a task calls for; None when its client did not ask for one."""
    event = _told_as(news, before)
    asked = view.submission
    if asked is None or asked.callback is None:
        return None
    if event not in (asked.callback_events or USUAL_EVENTS):
        return None
    kind = f"task.{event}"
    return Notice(
        webhook_id=f"msg_{view.task_id.replace('-', '')}_{news.attempt}_{event}",
        task_id=view.task_id,
        tenant_id=view.tenant_id,
        url=asked.callback,
        type=kind,
        body=_json({"type": kind, "timestamp": news.at.isoformat(), "data": _data(news, view)}),
        created_at=news.at,
    )


def _json(body: dict[str, Any]) -> str:
    try:
        return orjson.dumps(body).decode()
    except TypeError:  # a number beyond 64 bits
        return json.dumps(body)


def _told_as(news: News, before: TaskView | None) -> EventType:
    # A worker's first progress may pass the news of its start, which then tells nothing new.
    runs = before is not None and (before.state, before.attempt) == (TaskState.RUNNING, news.attempt)
    return EventType.STARTED if news.type is EventType.PROGRESS and not runs else news.type


def _data(news: News, view: TaskView) -> dict[str, Any]:
    asked = view.submission
    return {
        "task_id": view.task_id,
        "state": news.state,
        "attempt": news.attempt,
        "model": asked.model if asked else None,
        "error": news.error.model_dump() if news.error else None,
        "artifacts": [
            {
                "index": index,
                "url": f"/api/v1/tasks/{view.task_id}/artifacts/{index}",
                **artifact.model_dump(exclude={"key"}),
            }
            for index, artifact in enumerate(view.artifacts)
        ],
        "request_id": asked.request_id if asked else None,
    }
