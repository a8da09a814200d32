"""Views, work and attempts as rows, within a transaction that the caller has begun."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from services.status.attempts import Attempt
from services.status.store.dialect import rows_with, write_rows
from services.status.store.documents import document_of
from services.status.store.positions import WORK_POSITIONS, take_positions
from services.status.store.tables import ATTEMPTS, TASKS, WORK, from_microseconds, to_microseconds
from services.status.view import TaskView
from services.status.work import Work, WorkState
from shared.domain.task import Lane, TaskState
from shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from sqlalchemy import Connection

    from services.status.applying import AttemptKey

    Parse = Callable[[str, str], TaskView | None]

log = get_logger(__name__)

_WORK_FIELDS: Final = tuple(field.name for field in fields(Work))
_WORK_COLUMNS: Final = tuple(WORK.c[name] for name in _WORK_FIELDS)
_ATTEMPT_FIELDS: Final = tuple(field.name for field in fields(Attempt))
_TIMES: Final = ("submitted_at", "ready_at", "start_deadline", "finish_deadline")


def load_views(connection: Connection, task_ids: Collection[str], parse: Parse | None = None) -> dict[str, TaskView]:
    """The views of those tasks that have one."""
    parse = parse or view_from
    rows = rows_with(connection, (TASKS.c.task_id, TASKS.c.view), task_ids)
    views = ((task_id, parse(task_id, document)) for task_id, document in rows)
    return {task_id: view for task_id, view in views if view is not None}


def view_from(task_id: str, document: str) -> TaskView | None:
    """A document as a view, or None where it cannot be read."""
    try:
        return TaskView.model_validate_json(document)
    except ValidationError as exc:
        # Another version wrote it, or the disk lies. The events to come, or the bucket, make it again.
        log.error("view_unreadable", task_id=task_id, error_message=str(exc))  # noqa: TRY400 - the stack says nothing
        return None


def save_views(connection: Connection, views: Iterable[TaskView]) -> list[str]:
    """Write views over what is there. Returns their documents."""
    rows = [view_row(view) for view in views]
    write_rows(connection, TASKS, rows)
    return [str(row["view"]) for row in rows]


def view_row(view: TaskView) -> dict[str, object]:
    """A view as a row."""
    return {
        "task_id": view.task_id,
        "tenant_id": view.tenant_id,
        "model": view.submission.model if view.submission else "",
        "state": view.state,
        "updated_at": to_microseconds(view.updated_at),
        "view": document_of(view),
    }


def load_work(connection: Connection, task_ids: Collection[str]) -> dict[str, Work]:
    """The work of those tasks that have some."""
    if not task_ids:
        return {}
    rows = rows_with(connection, _WORK_COLUMNS, task_ids)
    return {row[0]: work_from(dict(zip(_WORK_FIELDS, row, strict=True))) for row in rows}


def save_work(connection: Connection, changed: Collection[Work]) -> None:
    """Write work over what is there, as the latest changes."""
    if not changed:
        return
    first = take_positions(connection, WORK_POSITIONS, len(changed))
    rows = [{**work_row(work), "changed": first + number} for number, work in enumerate(changed)]
    write_rows(connection, WORK, rows)


def work_from(row: Mapping[Any, Any]) -> Work:
    """A row as work."""
    values = {name: row[name] for name in _WORK_FIELDS}
    values |= {name: from_microseconds(row[name]) for name in _TIMES}
    return Work(**{**values, "lane": Lane(row["lane"]), "state": WorkState(row["state"])})


def work_row(work: Work) -> dict[str, object]:
    """Work as a row, without the position of its change."""
    row: dict[str, object] = {name: getattr(work, name) for name in _WORK_FIELDS}
    row |= {name: to_microseconds(getattr(work, name)) for name in (*_TIMES, "due_at")}
    return row


def load_attempts(connection: Connection, task_ids: Collection[str]) -> dict[AttemptKey, Attempt]:
    """All that is known of attempts of these tasks, in their order."""
    if not task_ids:
        return {}
    rows = sorted(map(tuple, rows_with(connection, tuple(ATTEMPTS.columns), task_ids)))
    return {row[:2]: attempt_from(dict(zip(ATTEMPTS.columns.keys(), row, strict=True))) for row in rows}


def save_attempts(connection: Connection, attempts: Iterable[Attempt]) -> None:
    """Write attempts over what is there."""
    write_rows(connection, ATTEMPTS, [attempt_row(attempt) for attempt in attempts])


def attempt_from(row: Mapping[Any, Any]) -> Attempt:
    """A row as an attempt."""
    times = {name: row[name] and from_microseconds(row[name]) for name in ("started_at", "ended_at")}
    return Attempt(**{**row, **times, "state": TaskState(row["state"])})


def attempt_row(attempt: Attempt) -> dict[str, object]:
    """An attempt as a row."""
    row: dict[str, object] = {name: getattr(attempt, name) for name in _ATTEMPT_FIELDS}
    for name in ("started_at", "ended_at"):
        moment = getattr(attempt, name)
        row[name] = moment and to_microseconds(moment)
    return row
