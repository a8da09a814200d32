"""Tasks as work in the status database, for the sweeper."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import and_, delete, func, or_, select, update

from services.status.store.dialect import insert_into
from services.status.store.engine import writing
from services.status.store.feeds_sql import load_seen_until
from services.status.store.positions import WORK_POSITIONS, load_position
from services.status.store.rows import load_views, load_work, save_views, work_from
from services.status.store.tables import (
    LEASES,
    TASKS,
    WORK,
    from_microseconds,
    to_microseconds,
    translated,
)
from services.status.work import Change, Front, WorkQueue, WorkState

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime, timedelta

    from sqlalchemy import Engine

    from services.status.work import Work

_FORGOTTEN_AT_ONCE: Final = 1000
_WAITS = WORK.c.state == WorkState.WAITING


class SqlWorkStore:
    """A WorkStore over SQLAlchemy Core. Thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self._reader = engine
        self._writer = writing(engine)

    def find(self, task_id: str) -> Work | None:
        """See WorkStore."""
        with translated(), self._reader.connect() as connection:
            return load_work(connection, {task_id}).get(task_id)

    def overdue(self, now: datetime, limit: int, *, after: str = "") -> Sequence[Work]:
        """See WorkStore."""
        query = select(WORK).where(_WAITS, WORK.c.due_at <= to_microseconds(now), WORK.c.task_id > after)
        with translated(), self._reader.connect() as connection:
            rows = connection.execute(query.order_by(WORK.c.task_id).limit(limit)).mappings()
            return [work_from(row) for row in rows]

    def silent(self, now: datetime, silence: timedelta, limit: int, *, after: str = "") -> Sequence[Work]:
        """See WorkStore."""
        since = to_microseconds(now - silence)
        unheard = or_(TASKS.c.updated_at <= since, WORK.c.finish_deadline <= to_microseconds(now))
        query = (
            select(WORK)
            .join(TASKS, TASKS.c.task_id == WORK.c.task_id)
            .where(
                WORK.c.task_id > after,
                or_(and_(_WAITS, WORK.c.ready_at <= since), and_(WORK.c.state == WorkState.RUNNING, unheard)),
            )
        )
        with translated(), self._reader.connect() as connection:
            rows = connection.execute(query.order_by(WORK.c.task_id).limit(limit)).mappings()
            return [work_from(row) for row in rows]

    def fronts(self) -> Sequence[Front]:
        """See WorkStore."""
        started = (WORK.c.state != WorkState.WAITING, WORK.c.worker != "")
        query = select(WORK.c.model, WORK.c.level, func.max(WORK.c.ready_at)).where(*started)
        with translated(), self._reader.connect() as connection:
            rows = connection.execute(query.group_by(WORK.c.model, WORK.c.level)).all()
        return [Front(model, level, from_microseconds(ready_at)) for model, level, ready_at in rows]

    def seen_until(self) -> datetime | None:
        """See TaskViewStore."""
        with translated(), self._reader.connect() as connection:
            return load_seen_until(connection)

    def queues(self, now: datetime) -> Sequence[WorkQueue]:
        """See WorkStore."""
        waiting = select(WORK.c.model, func.avg(WORK.c.predicted_seconds)).where(_WAITS).group_by(WORK.c.model)
        working = (
            select(WORK.c.model, func.count(WORK.c.worker.distinct()))
            .where(WORK.c.state == WorkState.RUNNING, WORK.c.finish_deadline > to_microseconds(now))
            .group_by(WORK.c.model)
        )
        with translated(), self._reader.connect() as connection:
            workers = {row[0]: row[1] for row in connection.execute(working)}
            rows = connection.execute(waiting.order_by(WORK.c.model)).all()
        return [WorkQueue(model=model, usual_seconds=mean, workers=workers.get(model, 0)) for model, mean in rows]

    def heads(self, model: str, now: datetime, seconds: float) -> Sequence[Work]:
        """See WorkStore."""
        moment = to_microseconds(now)
        order = (WORK.c.submitted_at, WORK.c.task_id)
        until_here = func.sum(WORK.c.predicted_seconds).over(partition_by=WORK.c.tenant_id, order_by=order)
        lines = (
            select(WORK, (until_here - WORK.c.predicted_seconds).label("ahead"))
            .where(_WAITS, WORK.c.model == model, WORK.c.ready_at <= moment, WORK.c.due_at > moment)
            .subquery()
        )
        query = select(lines).where(lines.c.ahead < seconds)
        with translated(), self._reader.connect() as connection:
            rows = connection.execute(query.order_by(lines.c.tenant_id, lines.c.submitted_at, lines.c.task_id))
            return [work_from(row) for row in rows.mappings()]

    def raise_level(self, task_id: str, attempt: int, level: int, at: datetime) -> None:
        """See WorkStore."""
        of_attempt = (WORK.c.task_id == task_id, WORK.c.attempt == attempt, WORK.c.level < level)
        with translated(), self._writer.begin() as connection:
            connection.execute(update(WORK).where(*of_attempt).values(level=level, ready_at=to_microseconds(at)))
            views = load_views(connection, {task_id}).values()
            raised = [view.model_copy(update={"priority": level}) for view in views if level > (view.priority or 0)]
            save_views(connection, raised)

    def changes(self, after: int, limit: int) -> Sequence[Change]:
        """See WorkStore."""
        query = select(WORK).where(WORK.c.changed > after).order_by(WORK.c.changed).limit(limit)
        with translated(), self._reader.connect() as connection:
            return [Change(row["changed"], work_from(row)) for row in connection.execute(query).mappings()]

    def latest_change(self) -> int:
        """See WorkStore."""
        with translated(), self._reader.connect() as connection:
            return load_position(connection, WORK_POSITIONS)

    def forget_ended(self, until: int) -> None:
        """See WorkStore."""
        ended = select(WORK.c.task_id).where(WORK.c.state == WorkState.ENDED, WORK.c.changed <= until)
        piece = delete(WORK).where(WORK.c.task_id.in_(ended.limit(_FORGOTTEN_AT_ONCE)))
        dropped = _FORGOTTEN_AT_ONCE
        while dropped == _FORGOTTEN_AT_ONCE:  # others write in between
            with translated(), self._writer.begin() as connection:
                dropped = connection.execute(piece).rowcount

    def take_lease(self, name: str, holder: str, now: datetime, seconds: float) -> bool:
        """See WorkStore."""
        moment = to_microseconds(now)
        with translated(), self._writer.begin() as connection:
            insert = insert_into(connection, LEASES).values(name=name, holder=holder, until=moment + int(seconds * 1e6))
            mine = {"holder": insert.excluded.holder, "until": insert.excluded.until}
            free = or_(LEASES.c.holder == holder, LEASES.c.until <= moment)
            connection.execute(insert.on_conflict_do_update(index_elements=[LEASES.c.name], set_=mine, where=free))
            return bool(connection.execute(select(LEASES.c.holder).where(LEASES.c.name == name)).scalar() == holder)

    def give_lease_back(self, name: str, holder: str) -> None:
        """See WorkStore."""
        with translated(), self._writer.begin() as connection:
            connection.execute(delete(LEASES).where(LEASES.c.name == name, LEASES.c.holder == holder))

    def check(self) -> None:
        """See WorkStore."""
        with translated(), self._writer.begin() as connection:
            connection.execute(select(1))

    def close(self) -> None:
        """Close every connection."""
        self._reader.dispose()
