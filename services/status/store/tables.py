"""The tables of the status database, and how it is used in transactions. Times are microseconds since 1970."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from sqlalchemy import BigInteger, Column, Float, Index, Integer, MetaData, String, Table, Text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import CreateIndex, CreateTable

from services.status.errors import ViewStoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

_METADATA: Final = MetaData()
# One row for each task: its view as JSON, and beside it what lists search for. Ids are in the order of their making.
TASKS: Final = Table(
    "tasks",
    _METADATA,
    Column("task_id", String(36), primary_key=True),
    Column("tenant_id", String(63), nullable=False),
    Column("model", String(63), nullable=False),
    Column("state", String(16), nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("view", Text, nullable=False),
    Index("tasks_of_tenant", "tenant_id", "task_id"),
    Index("tasks_in_state", "state", "task_id"),
)
# The news of the last while, at positions that ascend in the order of the commits.
NEWS: Final = Table(
    "events",
    _METADATA,
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("task_id", String(36), nullable=False),
    Column("tenant_id", String(63), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("document", Text, nullable=False),
    Index("events_of_task", "task_id", "position"),
    Index("events_of_tenant", "tenant_id", "position"),
)
# The callbacks that are owed or were made. ``line`` is "<tenant> <host>": each has a line of its own to wait in.
# ``due_at`` is when to try next, or until when ``holder`` has it in hand; ``until_at`` is when to give up, and when to
# forget one that has ended; ``attempts`` is a JSON list of what came of the last ones.
DELIVERIES: Final = Table(
    "webhook_deliveries",
    _METADATA,
    Column("webhook_id", String(96), primary_key=True),
    Column("task_id", String(36), nullable=False),
    Column("tenant_id", String(63), nullable=False),
    Column("url", Text, nullable=False),
    Column("line", String(320), nullable=False),
    Column("type", String(32), nullable=False),
    Column("body", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("tries", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("until_at", BigInteger, nullable=False),
    Column("holder", String(64), nullable=False),
    Column("attempts", Text, nullable=False),
    Index("deliveries_in_line", "state", "line", "due_at"),
    Index("deliveries_until", "state", "until_at"),
    Index("deliveries_of_task", "task_id", "created_at"),
    Index("deliveries_of_tenant", "tenant_id", "webhook_id"),
)
# Where a tenant's callbacks are not wanted any more; ``digest`` is the SHA-256 of the URL.
DISABLED_CALLBACKS: Final = Table(
    "webhook_disabled",
    _METADATA,
    Column("tenant_id", String(63), primary_key=True),
    Column("digest", String(64), primary_key=True),
    Column("at", BigInteger, nullable=False),
)
FEEDS: Final = Table(
    "feeds",
    _METADATA,
    Column("name", String(32), primary_key=True),
    Column("seen_until", BigInteger, nullable=False),
)
# One row for each task that has not ended, and for those whose end the sweeper has not seen. ``changed`` is a position.
WORK: Final = Table(
    "work",
    _METADATA,
    Column("task_id", String(36), primary_key=True),
    Column("tenant_id", String(63), nullable=False),
    Column("model", String(63), nullable=False),
    Column("lane", String(16), nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("level", Integer, nullable=False),
    Column("submitted_at", BigInteger, nullable=False),
    Column("ready_at", BigInteger, nullable=False),
    Column("start_deadline", BigInteger, nullable=False),
    Column("finish_deadline", BigInteger, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("predicted_seconds", Float, nullable=False),
    Column("spent_seconds", Float, nullable=False),
    Column("worker", Text, nullable=False),
    Column("document", Text, nullable=False),
    Column("changed", BigInteger, nullable=False),
    Index("work_due", "state", "due_at"),
    Index("work_lines", "state", "model", "tenant_id", "submitted_at"),
    Index("work_changed", "changed"),
)
# Positions are given out here: those of rows that were dropped must not come again.
POSITIONS: Final = Table(
    "positions",
    _METADATA,
    Column("name", String(32), primary_key=True),
    Column("position", BigInteger, nullable=False),
)
LEASES: Final = Table(
    "leases",
    _METADATA,
    Column("name", String(32), primary_key=True),
    Column("holder", String(64), nullable=False),
    Column("until", BigInteger, nullable=False),
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def create_missing(connection: Connection) -> None:
    """Make the tables and indexes that a database lacks: an empty one, or one of an earlier version."""
    for table in _METADATA.sorted_tables:
        connection.execute(CreateTable(table, if_not_exists=True))
        for index in table.indexes:
            connection.execute(CreateIndex(index, if_not_exists=True))


def to_microseconds(moment: datetime) -> int:
    """A time as a column holds it."""
    return (moment - _EPOCH) // _MICROSECOND


def from_microseconds(microseconds: int) -> datetime:
    """A column's time, in UTC."""
    return _EPOCH + microseconds * _MICROSECOND


@contextmanager
def translated() -> Iterator[None]:
    """Whatever SQLAlchemy raises becomes a ViewStoreError."""
    try:
        yield
    except SQLAlchemyError as exc:
        message = f"the database failed: {type(exc).__name__}: {getattr(exc, 'orig', None)}"
        raise ViewStoreError(message) from exc
