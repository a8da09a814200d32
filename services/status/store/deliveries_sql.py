"""The outbox of callbacks in the status database."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import and_, delete, func, or_, select, update

from services.status.store.engine import writing
from services.status.store.tables import (
    DELIVERIES,
    DISABLED_CALLBACKS,
    from_microseconds,
    to_microseconds,
    translated,
)
from services.status.webhooks.deliveries import (
    GIVE_UP_AFTER,
    Delivery,
    DeliveryAttempt,
    DeliveryState,
    Line,
)
from services.status.webhooks.notices import Notice

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from sqlalchemy import Connection, Engine, Select

    from services.status.webhooks.ports import Hold

_ROW = DELIVERIES.c
_PENDING = _ROW.state == DeliveryState.PENDING


class SqlDeliveryStore:
    """A DeliveryStore over SQLAlchemy Core. Thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self._reader = engine
        self._writer = writing(engine)

    def lines(self, after: str, limit: int) -> Sequence[Line]:
        """See DeliveryStore. From line to line by the index, however many deliveries wait in one."""
        with translated(), self._reader.connect() as connection:
            rows = connection.execute(_lines(after, limit)).all()
        return [Line(name, from_microseconds(due)) for name, due in rows]

    def take(self, wanted: Mapping[str, int], hold: Hold) -> Sequence[Delivery]:
        """See DeliveryStore. Chosen without a lock, taken where nobody was faster."""
        now, until = to_microseconds(hold.now), to_microseconds(hold.until)
        with translated(), self._reader.connect() as connection:
            found = [
                row for line, count in wanted.items() for row in connection.execute(_due(line, now, count)).mappings()
            ]
        if not found:
            return []
        with translated(), self._writer.begin() as connection:
            return [
                _delivery({**row, "due_at": until})
                for row in found
                if connection.execute(
                    update(DELIVERIES)
                    .where(_ROW.webhook_id == row["webhook_id"], _PENDING, _ROW.due_at == row["due_at"])
                    .where(_ROW.holder == row["holder"])
                    .values(holder=hold.holder, due_at=until)
                ).rowcount
            ]

    def settle(self, delivery: Delivery, holder: str, *, disable: bool = False) -> bool:
        """See DeliveryStore."""
        notice = delivery.notice
        change = (
            update(DELIVERIES)
            .where(_ROW.webhook_id == notice.webhook_id, _PENDING, _ROW.holder == holder)
            .values(
                state=delivery.state,
                tries=delivery.tries,
                due_at=to_microseconds(delivery.due_at),
                until_at=to_microseconds(delivery.until),
                holder="",
                attempts=orjson.dumps([attempt.model_dump(mode="json") for attempt in delivery.attempts]).decode(),
            )
        )
        with translated(), self._writer.begin() as connection:
            if not connection.execute(change).rowcount:
                return False
            if disable:
                _enable(connection, notice)
                connection.execute(
                    DISABLED_CALLBACKS.insert().values(
                        tenant_id=notice.tenant_id, digest=_digest(notice.url), at=to_microseconds(delivery.due_at)
                    )
                )
        return True

    def is_disabled(self, tenant_id: str, url: str) -> bool:
        """See DeliveryStore."""
        query = select(DISABLED_CALLBACKS.c.at).where(
            DISABLED_CALLBACKS.c.tenant_id == tenant_id, DISABLED_CALLBACKS.c.digest == _digest(url)
        )
        with translated(), self._reader.connect() as connection:
            return connection.execute(query).first() is not None

    def give_up_old(self, now: datetime, limit: int) -> int:
        """See DeliveryStore."""
        at = to_microseconds(now)
        in_hand = and_(_ROW.holder != "", _ROW.due_at > at)
        old = select(_ROW.webhook_id).where(_PENDING, _ROW.until_at <= at, ~in_hand).limit(limit)
        change = update(DELIVERIES).where(_ROW.webhook_id.in_(old), _PENDING)
        with translated(), self._writer.begin() as connection:
            done = connection.execute(change.values(state=DeliveryState.GIVEN_UP, due_at=at, until_at=at, holder=""))
        return done.rowcount

    def of_task(self, task_id: str, tenant_id: str) -> Sequence[Delivery]:
        """See DeliveryStore."""
        query = select(DELIVERIES).where(_ROW.task_id == task_id, _ROW.tenant_id == tenant_id)
        return self._deliveries(query.order_by(_ROW.created_at, _ROW.webhook_id))

    def listed(self, tenant_id: str, state: DeliveryState | None, before: str | None, limit: int) -> Sequence[Delivery]:
        """See DeliveryStore."""
        query = select(DELIVERIES).where(_ROW.tenant_id == tenant_id)
        if state is not None:
            query = query.where(_ROW.state == state)
        if before is not None:
            query = query.where(_ROW.webhook_id < before)
        return self._deliveries(query.order_by(_ROW.webhook_id.desc()).limit(limit))

    def replay(self, webhook_id: str, tenant_id: str, now: datetime) -> Delivery | None:
        """See DeliveryStore."""
        at = to_microseconds(now)
        own = and_(_ROW.webhook_id == webhook_id, _ROW.tenant_id == tenant_id)
        at_rest = or_(~_PENDING, _ROW.holder == "", _ROW.due_at <= at)
        change = update(DELIVERIES).where(own, at_rest)
        with translated(), self._writer.begin() as connection:
            connection.execute(
                change.values(
                    state=DeliveryState.PENDING,
                    tries=0,
                    due_at=at,
                    until_at=to_microseconds(now + GIVE_UP_AFTER),
                    holder="",
                )
            )
            row = connection.execute(select(DELIVERIES).where(own)).mappings().first()
            if row is None:
                return None
            delivery = _delivery(row)
            _enable(connection, delivery.notice)
        return delivery

    def check(self) -> None:
        """See DeliveryStore."""
        with translated(), self._writer.begin() as connection:
            connection.execute(select(_ROW.webhook_id).limit(1))

    def close(self) -> None:
        """Close every connection."""
        self._reader.dispose()

    def _deliveries(self, query: Select[Any]) -> Sequence[Delivery]:
        with translated(), self._reader.connect() as connection:
            return [_delivery(row) for row in connection.execute(query).mappings()]


def _lines(after: str, limit: int) -> Select[Any]:
    first = select(func.min(_ROW.line).label("name")).where(_PENDING, _ROW.line > after)
    lines = first.cte("lines", recursive=True)
    following = DELIVERIES.alias()
    step = select(func.min(following.c.line)).where(
        following.c.state == DeliveryState.PENDING, following.c.line > lines.c.name
    )
    lines = lines.union_all(select(step.scalar_subquery()).where(lines.c.name.is_not(None)))
    head = DELIVERIES.alias()
    due = select(func.min(head.c.due_at)).where(head.c.state == DeliveryState.PENDING, head.c.line == lines.c.name)
    return select(lines.c.name, due.scalar_subquery()).where(lines.c.name.is_not(None)).limit(limit)


def _due(line: str, now: int, count: int) -> Select[Any]:
    query = select(DELIVERIES).where(_PENDING, _ROW.line == line, _ROW.due_at <= now)
    return query.order_by(_ROW.due_at, _ROW.webhook_id).limit(count)


def _enable(connection: Connection, notice: Notice) -> None:
    table = DISABLED_CALLBACKS
    own = and_(table.c.tenant_id == notice.tenant_id, table.c.digest == _digest(notice.url))
    connection.execute(delete(table).where(own))


def _digest(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()


def _delivery(row: Mapping[Any, Any]) -> Delivery:
    return Delivery(
        notice=Notice(
            webhook_id=row["webhook_id"],
            task_id=row["task_id"],
            tenant_id=row["tenant_id"],
            url=row["url"],
            type=row["type"],
            body=row["body"],
            created_at=from_microseconds(row["created_at"]),
        ),
        state=DeliveryState(row["state"]),
        tries=row["tries"],
        due_at=from_microseconds(row["due_at"]),
        until=from_microseconds(row["until_at"]),
        attempts=tuple(DeliveryAttempt.model_validate(attempt) for attempt in orjson.loads(row["attempts"])),
    )
