"""Removing old rows of the status database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import bindparam, delete, func, select

from services.status.store.engine import writing
from services.status.store.ports import EndedTask
from services.status.store.rows import load_attempts
from services.status.store.tables import ATTEMPTS, DELIVERIES, NEWS, TASKS, to_microseconds, translated
from services.status.webhooks.deliveries import DeliveryState
from shared.domain.task import FINAL_STATES
from shared.ids import first_task_id

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy import Delete, Engine

_DONE_WITH: Final = sorted(set(DeliveryState) - {DeliveryState.PENDING})


class SqlRetentionStore:
    """A RetentionStore over SQLAlchemy Core. Thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self._reader = engine
        self._writer = writing(engine)

    def drop_news(self, before: datetime, limit: int) -> int:
        """See RetentionStore."""
        first = select(NEWS.c.position).order_by(NEWS.c.position).limit(limit).subquery()
        within = NEWS.c.position <= select(func.max(first.c.position)).scalar_subquery()
        return self._removed(delete(NEWS).where(within, NEWS.c.at < to_microseconds(before)))

    def drop_deliveries(self, before: datetime, limit: int) -> int:
        """See RetentionStore."""
        old = select(DELIVERIES.c.webhook_id).where(
            DELIVERIES.c.state.in_(_DONE_WITH), DELIVERIES.c.until_at < to_microseconds(before)
        )
        return self._removed(delete(DELIVERIES).where(DELIVERIES.c.webhook_id.in_(old.limit(limit))))

    def ended_tasks(self, before: datetime, limit: int) -> Sequence[EndedTask]:
        """See RetentionStore."""
        query = select(TASKS.c.task_id, TASKS.c.tenant_id, TASKS.c.view).where(
            TASKS.c.task_id < first_task_id(before.timestamp()),
            TASKS.c.state.in_(sorted(FINAL_STATES)),
            TASKS.c.updated_at < to_microseconds(before),
        )
        with translated(), self._reader.connect() as connection:
            rows = connection.execute(query.order_by(TASKS.c.task_id).limit(limit)).all()
            attempts = load_attempts(connection, [row.task_id for row in rows])
        made = [attempt for attempt in attempts.values() if attempt.was_made]
        return [
            EndedTask(
                task_id=row.task_id,
                tenant_id=row.tenant_id,
                view=row.view,
                attempts=tuple(attempt for attempt in made if attempt.task_id == row.task_id),
            )
            for row in rows
        ]

    def drop_tasks(self, tasks: Sequence[EndedTask]) -> int:
        """See RetentionStore."""
        if not tasks:
            return 0
        unchanged = delete(TASKS).where(TASKS.c.task_id == bindparam("id"), TASKS.c.view == bindparam("document"))
        ids = [task.task_id for task in tasks]
        left = select(TASKS.c.task_id).where(TASKS.c.task_id.in_(ids))
        attempts = delete(ATTEMPTS).where(ATTEMPTS.c.task_id.in_(ids), ATTEMPTS.c.task_id.not_in(left))
        with translated(), self._writer.begin() as connection:
            connection.execute(unchanged, [{"id": task.task_id, "document": task.view} for task in tasks])
            connection.execute(attempts)
            stayed = connection.execute(select(func.count()).select_from(left.subquery())).scalar_one()
        return len(tasks) - int(stayed)

    def _removed(self, statement: Delete) -> int:
        with translated(), self._writer.begin() as connection:
            return connection.execute(statement).rowcount
