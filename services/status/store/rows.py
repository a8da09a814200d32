"""Views and work as rows, within a transaction that the caller has begun."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError
from sqlalchemy import select
from sqlalchemy.dialects.sqlite import insert

from services.status.store.positions import WORK_POSITIONS, take_positions
from services.status.store.tables import FEEDS, TASKS, WORK, from_microseconds, to_microseconds
from services.status.view import TaskView
from services.status.work import Work, WorkState
from shared.domain.task import Lane
from shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import Connection

log = get_logger(__name__)

EVENTS_FEED: Final = "events"
_TIMES: Final = ("submitted_at", "ready_at", "start_deadline", "finish_deadline")


def load_views(connection: Connection, task_ids: set[str]) -> dict[str, TaskView]:
    """The views of those tasks that have one."""
    query = select(TASKS.c.task_id, TASKS.c.view).where(TASKS.c.task_id.in_(task_ids))
    views = {}
    for task_id, document in connection.execute(query):
        try:
            views[task_id] = TaskView.model_validate_json(document)
        except ValidationError as exc:
            # Another version wrote it, or the disk lies. The events to come, or the bucket, make it again.
            log.error("view_unreadable", task_id=task_id, error_message=str(exc))  # noqa: TRY400 - the stack says nothing
    return views


def save_views(connection: Connection, views: Iterable[TaskView]) -> None:
    """Write views over what is there."""
    rows = [
        {
            "task_id": view.task_id,
            "tenant_id": view.tenant_id,
            "model": view.submission.model if view.submission else "",
            "state": view.state,
            "updated_at": to_microseconds(view.updated_at),
            "view": view.model_dump_json(exclude_none=True),
        }
        for view in views
    ]
    if not rows:
        return
    upsert = insert(TASKS)
    changing = {name: upsert.excluded[name] for name in ("model", "state", "updated_at", "view")}
    upsert = upsert.on_conflict_do_update(index_elements=[TASKS.c.task_id], set_=changing)
    connection.execute(upsert, rows)


def load_seen_until(connection: Connection) -> datetime | None:
    """See TaskViewStore."""
    query = select(FEEDS.c.seen_until).where(FEEDS.c.name == EVENTS_FEED)
    microseconds = connection.execute(query).scalar()
    return None if microseconds is None else from_microseconds(microseconds)


def load_work(connection: Connection, task_ids: set[str]) -> dict[str, Work]:
    """The work of those tasks that have some."""
    query = select(WORK).where(WORK.c.task_id.in_(task_ids))
    return {row["task_id"]: work_from(row) for row in connection.execute(query).mappings()}


def save_work(connection: Connection, changed: Sequence[Work]) -> None:
    """Write work over what is there, as the latest changes."""
    if not changed:
        return
    first = take_positions(connection, WORK_POSITIONS, len(changed))
    upsert = insert(WORK)
    others = [column.name for column in WORK.c if column.name != "task_id"]
    upsert = upsert.on_conflict_do_update(
        index_elements=[WORK.c.task_id], set_={name: upsert.excluded[name] for name in others}
    )
    connection.execute(upsert, [{**_row(work), "changed": first + number} for number, work in enumerate(changed)])


def work_from(row: Mapping[Any, Any]) -> Work:
    """A row as work."""
    values = {field.name: row[field.name] for field in fields(Work)}
    values |= {name: from_microseconds(row[name]) for name in _TIMES}
    return Work(**{**values, "lane": Lane(row["lane"]), "state": WorkState(row["state"])})


def _row(work: Work) -> dict[str, object]:
    row: dict[str, object] = {field.name: getattr(work, field.name) for field in fields(work)}
    row |= {name: to_microseconds(getattr(work, name)) for name in (*_TIMES, "due_at")}
    return row
