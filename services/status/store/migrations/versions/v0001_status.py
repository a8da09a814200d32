"""The whole schema, also over what versions without migrations have made."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import orjson
import sqlalchemy as sa
from alembic import op

from shared.ids import new_execution_id
from shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

revision = "0001"
down_revision = None

log = get_logger(__name__)

_BATCH: Final = 1000
_METADATA: Final = sa.MetaData()
_TASKS: Final = sa.Table(
    "tasks",
    _METADATA,
    sa.Column("task_id", sa.String(36), primary_key=True),
    sa.Column("tenant_id", sa.String(63), nullable=False),
    sa.Column("model", sa.String(63), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
    sa.Column("view", sa.Text, nullable=False),
    sa.Index("tasks_of_tenant", "tenant_id", "state", "task_id"),
    sa.Index("tasks_of_tenant_on_model", "tenant_id", "model", "state", "task_id"),
    sa.Index("tasks_in_state", "state", "task_id"),
)
sa.Table(
    "attempts",
    _METADATA,
    sa.Column("task_id", sa.String(36), primary_key=True),
    sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("worker", sa.Text, nullable=True),
    sa.Column("execution", sa.Text, nullable=True),
    sa.Column("started_at", sa.BigInteger, nullable=True),
    sa.Column("ended_at", sa.BigInteger, nullable=True),
    sa.Column("error_code", sa.Text, nullable=True),
)
sa.Table(
    "events",
    _METADATA,
    sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("task_id", sa.String(36), nullable=False),
    sa.Column("tenant_id", sa.String(63), nullable=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("document", sa.Text, nullable=False),
    sa.Index("events_of_task", "task_id", "position"),
    sa.Index("events_of_tenant", "tenant_id", "position"),
)
sa.Table(
    "webhook_deliveries",
    _METADATA,
    sa.Column("webhook_id", sa.String(96), primary_key=True),
    sa.Column("task_id", sa.String(36), nullable=False),
    sa.Column("tenant_id", sa.String(63), nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("line", sa.String(320), nullable=False),
    sa.Column("type", sa.String(32), nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("tries", sa.Integer, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("due_at", sa.BigInteger, nullable=False),
    sa.Column("until_at", sa.BigInteger, nullable=False),
    sa.Column("holder", sa.String(64), nullable=False),
    sa.Column("attempts", sa.Text, nullable=False),
    sa.Index("deliveries_in_line", "state", "line", "due_at"),
    sa.Index("deliveries_until", "state", "until_at"),
    sa.Index("deliveries_of_task", "task_id", "created_at"),
    sa.Index("deliveries_of_tenant", "tenant_id", "webhook_id"),
    sa.Index("deliveries_of_tenant_in_state", "tenant_id", "state", "webhook_id"),
)
sa.Table(
    "webhook_disabled",
    _METADATA,
    sa.Column("tenant_id", sa.String(63), primary_key=True),
    sa.Column("digest", sa.String(64), primary_key=True),
    sa.Column("at", sa.BigInteger, nullable=False),
)
_FEEDS: Final = sa.Table(
    "feeds",
    _METADATA,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("seen_until", sa.BigInteger, nullable=False),
)
sa.Table(
    "work",
    _METADATA,
    sa.Column("task_id", sa.String(36), primary_key=True),
    sa.Column("tenant_id", sa.String(63), nullable=False),
    sa.Column("model", sa.String(63), nullable=False),
    sa.Column("lane", sa.String(16), nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("level", sa.Integer, nullable=False),
    sa.Column("submitted_at", sa.BigInteger, nullable=False),
    sa.Column("ready_at", sa.BigInteger, nullable=False),
    sa.Column("start_deadline", sa.BigInteger, nullable=False),
    sa.Column("finish_deadline", sa.BigInteger, nullable=False),
    sa.Column("due_at", sa.BigInteger, nullable=False),
    sa.Column("predicted_seconds", sa.Float, nullable=False),
    sa.Column("spent_seconds", sa.Float, nullable=False),
    sa.Column("worker", sa.Text, nullable=False),
    sa.Column("document", sa.Text, nullable=False),
    sa.Column("changed", sa.BigInteger, nullable=False),
    sa.Index("work_due", "state", "due_at"),
    sa.Index("work_lines", "state", "model", "tenant_id", "submitted_at"),
    sa.Index("work_changed", "changed"),
)
sa.Table(
    "positions",
    _METADATA,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("position", sa.BigInteger, nullable=False),
)
sa.Table(
    "leases",
    _METADATA,
    sa.Column("name", sa.String(32), primary_key=True),
    sa.Column("holder", sa.String(64), nullable=False),
    sa.Column("until", sa.BigInteger, nullable=False),
)


def upgrade() -> None:
    """Make what is missing, fill what was not searched for before, and give the database a name of its own."""
    connection = op.get_bind()
    old = sa.inspect(connection).has_table("tasks")
    if old:
        op.rename_table("tasks", "tasks_before")
        for name in ("tasks_of_tenant", "tasks_in_state"):
            connection.execute(sa.text(f"DROP INDEX IF EXISTS {name}"))
    _METADATA.create_all(connection)
    if old:
        _take_over(connection)
        op.drop_table("tasks_before")
    connection.execute(sa.update(_FEEDS).where(_FEEDS.c.name == "events").values(name="events:"))
    epochs = sa.select(_FEEDS.c.name).where(_FEEDS.c.name.startswith("epoch:"))
    if connection.execute(epochs).first() is None:
        connection.execute(_FEEDS.insert().values(name=f"epoch:{new_execution_id()}", seen_until=0))


def downgrade() -> None:
    """Remove everything."""
    _METADATA.drop_all(op.get_bind())


def _take_over(connection: sa.Connection) -> None:
    before = sa.table("tasks_before", sa.column("task_id"), sa.column("view"))
    query = sa.select(before).order_by(before.c.task_id).limit(_BATCH)
    last = ""
    while rows := connection.execute(query.where(before.c.task_id > last)).all():
        last = rows[-1].task_id
        found = list(_filled((row.task_id, row.view) for row in rows))
        if found:
            connection.execute(_TASKS.insert(), found)
        log.info("tasks_migrated", last_task_id=last, count=len(found), unreadable=len(rows) - len(found))


def _filled(rows: Iterable[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    for task_id, document in rows:
        try:
            view = orjson.loads(document)
            yield {
                "task_id": task_id,
                "tenant_id": view["tenant_id"],
                "model": (view.get("submission") or {}).get("model", ""),
                "state": view["state"],
                "updated_at": _microseconds(view["updated_at"]),
                "view": document,
            }
        except (ValueError, KeyError, TypeError, AttributeError):
            # Nobody could read it before: the next event, or the bucket, makes it again.
            log.warning("view_unreadable", task_id=task_id)


def _microseconds(text: str) -> int:
    return (datetime.fromisoformat(text) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
