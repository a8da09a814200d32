"""The tables of the status database, as the newest migration leaves them. Times are microseconds since 1970."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from sqlalchemy import BigInteger, Column, Float, Index, Integer, MetaData, String, Table, Text
from sqlalchemy.exc import DataError, SQLAlchemyError

from services.status.errors import UnstorableError, ViewStoreError
from services.status.store.address import VARIABLE
from shared.tls.problems import named

if TYPE_CHECKING:
    from collections.abc import Iterator

METADATA: Final = MetaData()
# One row for each task: its view as JSON, and beside it what lists search for. Ids are in the order of their making.
TASKS: Final = Table(
    "tasks",
    METADATA,
    Column("task_id", String(36), primary_key=True),
    Column("tenant_id", String(63), nullable=False),
    Column("model", String(63), nullable=False),
    Column("state", String(16), nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("view", Text, nullable=False),
    # A list is a range of one of these for each state, see listed_sql.
    Index("tasks_of_tenant", "tenant_id", "state", "task_id"),
    Index("tasks_of_tenant_on_model", "tenant_id", "model", "state", "task_id"),
    Index("tasks_in_state", "state", "task_id"),
)
# One row for each attempt that something is known of.
ATTEMPTS: Final = Table(
    "attempts",
    METADATA,
    Column("task_id", String(36), primary_key=True),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("state", String(16), nullable=False),
    Column("worker", Text, nullable=True),
    Column("execution", Text, nullable=True),
    Column("started_at", BigInteger, nullable=True),
    Column("ended_at", BigInteger, nullable=True),
    Column("error_code", Text, nullable=True),
)
# The news of the last while, at positions that ascend in the order of the commits.
NEWS: Final = Table(
    "events",
    METADATA,
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("task_id", String(36), nullable=False),
    Column("tenant_id", String(63), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("document", Text, nullable=False),
    Index("events_of_task", "task_id", "position"),
    Index("events_of_tenant", "tenant_id", "position"),
)
# The callbacks that are owed or were made. ``line`` is "<tenant> <host>": each has a line of its own to wait in.
# ``due_at`` is when to try next, or until when ``holder`` has it in hand; ``until_at`` is when to give up, or when
# it ended; ``attempts`` is a JSON list of what came of the last ones.
DELIVERIES: Final = Table(
    "webhook_deliveries",
    METADATA,
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
    Index("deliveries_of_tenant_in_state", "tenant_id", "state", "webhook_id"),
)
# Where a tenant's callbacks are not wanted any more; ``digest`` is the SHA-256 of the URL.
DISABLED_CALLBACKS: Final = Table(
    "webhook_disabled",
    METADATA,
    Column("tenant_id", String(63), primary_key=True),
    Column("digest", String(64), primary_key=True),
    Column("at", BigInteger, nullable=False),
)
FEEDS: Final = Table(
    "feeds",
    METADATA,
    Column("name", String(32), primary_key=True),
    Column("seen_until", BigInteger, nullable=False),
)
# One row for each task that has not ended, and for those whose end the sweeper has not seen. ``changed`` is a position.
WORK: Final = Table(
    "work",
    METADATA,
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
    METADATA,
    Column("name", String(32), primary_key=True),
    Column("position", BigInteger, nullable=False),
)
LEASES: Final = Table(
    "leases",
    METADATA,
    Column("name", String(32), primary_key=True),
    Column("holder", String(64), nullable=False),
    Column("until", BigInteger, nullable=False),
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def to_microseconds(moment: datetime) -> int:
    """A time as a column holds it."""
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def from_microseconds(microseconds: int) -> datetime:
    """A column's time, in UTC."""
    return _EPOCH + microseconds * _MICROSECOND


@contextmanager
def translated() -> Iterator[None]:
    """Whatever SQLAlchemy raises becomes a ViewStoreError."""
    try:
        yield
    except (DataError, OverflowError) as exc:
        message = f"the database refused a value: {type(exc).__name__}: {getattr(exc, 'orig', exc)}"
        raise UnstorableError(message) from exc
    except SQLAlchemyError as exc:
        reason = named(VARIABLE, exc, f"{type(exc).__name__}: {getattr(exc, 'orig', None)}")
        message = f"the database failed: {reason}"
        raise ViewStoreError(message) from exc
