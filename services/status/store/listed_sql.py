"""Lists of tasks by SQL. Whatever is asked for, each branch reads one range of one index, from its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import false, select, union_all

from services.status.store.rows import view_from
from services.status.store.tables import TASKS
from shared.domain.task import TaskState
from shared.ids import first_task_id

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Select

    from services.status.store.ports import TaskFilter
    from services.status.view import TaskView


def load_listed(connection: Connection, wanted: TaskFilter, before: str | None, limit: int) -> list[TaskView]:
    """See TaskViewStore."""
    query = select(TASKS.c.task_id, TASKS.c.view).where(TASKS.c.task_id.in_(listed_ids(wanted, before, limit)))
    rows = connection.execute(query.order_by(TASKS.c.task_id.desc())).all()
    views = (view_from(task_id, document) for task_id, document in rows)
    return [view for view in views if view is not None]


def listed_ids(wanted: TaskFilter, before: str | None, limit: int) -> Select[tuple[str]]:
    """The newest ids: of any task, or else the newest of the newest of each state."""
    anything = wanted.tenant_id is None and wanted.states is None and wanted.model is None
    states = [None] if anything else sorted(wanted.states if wanted.states is not None else TaskState)
    branches = [_newest(state, wanted, before).limit(limit).subquery() for state in states]
    if not branches:
        return select(TASKS.c.task_id).where(false())
    ids = union_all(*(select(branch.c.task_id) for branch in branches)).subquery()
    newest = select(ids.c.task_id).order_by(ids.c.task_id.desc()).limit(limit).subquery()
    return select(newest.c.task_id)


def _newest(state: TaskState | None, wanted: TaskFilter, before: str | None) -> Select[tuple[str]]:
    equal = {"tenant_id": wanted.tenant_id, "model": wanted.model, "state": state}
    conditions: list[ColumnElement[bool]] = [
        TASKS.c[name] == value for name, value in equal.items() if value is not None
    ]
    if wanted.since is not None:
        conditions.append(TASKS.c.task_id >= first_task_id(wanted.since.timestamp()))
    bounds = [before] if before is not None else []
    bounds += [first_task_id(wanted.until.timestamp())] if wanted.until is not None else []
    if bounds:
        conditions.append(TASKS.c.task_id < min(bounds))
    return select(TASKS.c.task_id).where(*conditions).order_by(TASKS.c.task_id.desc())
