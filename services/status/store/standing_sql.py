"""Where a waiting task stands, by SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import and_, func, or_, select

from services.status.store.tables import WORK, to_microseconds
from services.status.work import Standing, WorkState

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Connection


def load_standing(connection: Connection, task_id: str, now: datetime) -> Standing | None:
    """See TaskViewStore."""
    own = (
        connection.execute(select(WORK).where(WORK.c.task_id == task_id, WORK.c.state == WorkState.WAITING))
        .mappings()
        .first()
    )
    if own is None:
        return None
    moment = to_microseconds(now)
    earlier = or_(WORK.c.ready_at < own["ready_at"], and_(WORK.c.ready_at == own["ready_at"], WORK.c.task_id < task_id))
    ahead = select(func.count(), func.coalesce(func.sum(WORK.c.predicted_seconds), 0.0)).where(
        WORK.c.state == WorkState.WAITING,
        WORK.c.model == own["model"],
        WORK.c.due_at > moment,
        or_(WORK.c.level > own["level"], and_(WORK.c.level == own["level"], earlier)),
    )
    running = select(
        func.count(WORK.c.worker.distinct()), func.coalesce(func.sum(WORK.c.predicted_seconds), 0.0)
    ).where(WORK.c.state == WorkState.RUNNING, WORK.c.model == own["model"], WORK.c.finish_deadline > moment)
    count, seconds = connection.execute(ahead).one()
    workers, running_seconds = connection.execute(running).one()
    return Standing(
        ahead=count,
        ahead_seconds=seconds,
        running_seconds=running_seconds,
        workers=workers,
        own_seconds=own["predicted_seconds"],
    )
