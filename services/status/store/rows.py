"""Views, work and attempts as rows, within a transaction that the caller has begun."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError
from sqlalchemy import select

from services.status.attempts import Attempt
from services.status.store.dialect import upsert_into
from services.status.store.positions import WORK_POSITIONS, take_positions
from services.status.store.tables import ATTEMPTS, TASKS, WORK, from_microseconds, to_microseconds
from services.status.view import TaskView
from services.status.work import Work, WorkState
from shared.domain.task import Lane, TaskState
from shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from sqlalchemy import Connection

    from services.status.applying import AttemptKey

log = get_logger(__name__)

_TIMES: Final = ("submitted_at", "ready_at", "start_deadline", "finish_deadline")


def load_views(connection: Connection, task_ids: Collection[str]) -> dict[str, TaskView]:
    """The views of those tasks that have one."""
    query = select(TASKS.c.task_id, TASKS.c.view).where(TASKS.c.task_id.in_(task_ids))
    views = {}
    for task_id, document in connection.execute(query):
        view = view_from(task_id, document)
        if view is not None:
            views[task_id] = view
    return views


def view_from(task_id: str, document: str) -> TaskView | None:
    """A document as a view, or None where it cannot be read."""
    try:
        return TaskView.model_validate_json(document)
    except ValidationError as exc:
        # Another version wrote it, or the disk lies. The events to come, or the bucket, make it again.
        log.error("view_unreadable", task_id=task_id, error_message=str(exc))  # noqa: TRY400 - the stack says nothing
        return None


def save_views(connection: Connection, views: Iterable[TaskView]) -> None:
    """Write views over what is there."""
    rows = [view_row(view) for view in views]
    if rows:
        connection.execute(upsert_into(connection, TASKS), rows)


def view_row(view: TaskView) -> dict[str, object]:
    """A view as a row."""
    return {
        "task_id": view.task_id,
        "tenant_id": view.tenant_id,
        "model": view.submission.model if view.submission else "",
        "state": view.state,
        "updated_at": to_microseconds(view.updated_at),
        "view": view.model_dump_json(exclude_none=True),
    }


def load_work(connection: Connection, task_ids: Collection[str]) -> dict[str, Work]:
    """The work of those tasks that have some."""
    if not task_ids:
        return {}
    query = select(WORK).where(WORK.c.task_id.in_(task_ids))
    return {row["task_id"]: work_from(row) for row in connection.execute(query).mappings()}


def save_work(connection: Connection, changed: Collection[Work]) -> None:
    """Write work over what is there, as the latest changes."""
    if not changed:
        return
    first = take_positions(connection, WORK_POSITIONS, len(changed))
    rows = [{**work_row(work), "changed": first + number} for number, work in enumerate(changed)]
    connection.execute(upsert_into(connection, WORK), rows)


def work_from(row: Mapping[Any, Any]) -> Work:
    """A row as work."""
    values = {field.name: row[field.name] for field in fields(Work)}
    values |= {name: from_microseconds(row[name]) for name in _TIMES}
    return Work(**{**values, "lane": Lane(row["lane"]), "state": WorkState(row["state"])})


def work_row(work: Work) -> dict[str, object]:
    """Work as a row, without the position of its change."""
    row: dict[str, object] = {field.name: getattr(work, field.name) for field in fields(work)}
    row |= {name: to_microseconds(getattr(work, name)) for name in (*_TIMES, "due_at")}
    return row


def load_attempts(connection: Connection, task_ids: Collection[str]) -> dict[AttemptKey, Attempt]:
    """All that is known of attempts of these tasks, in their order."""
    if not task_ids:
        return {}
    query = select(ATTEMPTS).where(ATTEMPTS.c.task_id.in_(task_ids)).order_by(ATTEMPTS.c.task_id, ATTEMPTS.c.attempt)
    return {(row["task_id"], row["attempt"]): attempt_from(row) for row in connection.execute(query).mappings()}


def save_attempts(connection: Connection, attempts: Iterable[Attempt]) -> None:
    """Write attempts over what is there."""
    rows = [attempt_row(attempt) for attempt in attempts]
    if rows:
        connection.execute(upsert_into(connection, ATTEMPTS), rows)


def attempt_from(row: Mapping[Any, Any]) -> Attempt:
    """A row as an attempt."""
    times = {name: row[name] and from_microseconds(row[name]) for name in ("started_at", "ended_at")}
    return Attempt(**{**row, **times, "state": TaskState(row["state"])})


def attempt_row(attempt: Attempt) -> dict[str, object]:
    """An attempt as a row."""
    times = {"started_at": attempt.started_at, "ended_at": attempt.ended_at}
    return {**asdict(attempt), **{name: at and to_microseconds(at) for name, at in times.items()}}
