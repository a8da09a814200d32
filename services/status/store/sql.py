"""Task views in a SQL database: one row for each task, its view as JSON, since nothing searches inside it yet."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError
from sqlalchemy import BigInteger, Column, MetaData, String, Table, Text, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import CreateTable

from services.status.errors import ViewStoreError
from services.status.projection import apply_to, concerned
from services.status.store.sqlite import WRITES, sqlite_engine
from services.status.view import TaskView
from shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import Connection, Engine

    from shared.contracts.event import TaskEvent

log = get_logger(__name__)

_METADATA: Final = MetaData()
TASKS: Final = Table(
    "tasks",
    _METADATA,
    Column("task_id", String(36), primary_key=True),
    Column("view", Text, nullable=False),
)
# Microseconds since 1970.
FEEDS: Final = Table(
    "feeds",
    _METADATA,
    Column("name", String(32), primary_key=True),
    Column("seen_until", BigInteger, nullable=False),
)
_EVENTS_FEED: Final = "events"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class SqlTaskViewStore:
    """A TaskViewStore over SQLAlchemy Core. Thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self._reader = engine
        self._writer = engine.execution_options(**{WRITES: True})

    def prepare(self) -> None:
        """See TaskViewStore."""
        with _translated(), self._writer.begin() as connection:
            for table in _METADATA.sorted_tables:
                connection.execute(CreateTable(table, if_not_exists=True))

    def apply_events(self, events: Sequence[TaskEvent], *, seen_until: datetime) -> None:
        """See TaskViewStore."""
        with _translated(), self._writer.begin() as connection:
            before = _load(connection, {task_id for event in events for task_id in concerned(event)})
            after = dict(before)
            for event in events:
                apply_to(after, event)
            _save(connection, [view for task_id, view in after.items() if view is not before.get(task_id)])
            _advance(connection, seen_until)

    def get(self, task_id: str) -> TaskView | None:
        """See TaskViewStore."""
        with _translated(), self._reader.connect() as connection:
            return _load(connection, {task_id}).get(task_id)

    def page(self, after: str, limit: int) -> tuple[Sequence[TaskView], str | None]:
        """See TaskViewStore."""
        query = select(TASKS.c.task_id).where(TASKS.c.task_id > after).order_by(TASKS.c.task_id).limit(limit)
        with _translated(), self._reader.connect() as connection:
            ids = list(connection.execute(query).scalars())
            views = _load(connection, set(ids))
        return list(views.values()), ids[-1] if len(ids) == limit else None

    def seen_until(self) -> datetime | None:
        """See TaskViewStore."""
        query = select(FEEDS.c.seen_until).where(FEEDS.c.name == _EVENTS_FEED)
        with _translated(), self._reader.connect() as connection:
            microseconds = connection.execute(query).scalar()
        return None if microseconds is None else _EPOCH + microseconds * _MICROSECOND

    def check(self) -> None:
        """See TaskViewStore."""
        with _translated(), self._writer.begin() as connection:
            connection.execute(select(1))

    def close(self) -> None:
        """Close every connection."""
        self._reader.dispose()


def open_store(url: str) -> SqlTaskViewStore:
    """The store at an address, ready for use. Raises ConfigurationError, or ViewStoreError when it does not answer."""
    store = SqlTaskViewStore(sqlite_engine(url))
    store.prepare()
    return store


def _load(connection: Connection, task_ids: set[str]) -> dict[str, TaskView]:
    query = select(TASKS.c.task_id, TASKS.c.view).where(TASKS.c.task_id.in_(task_ids))
    views = {}
    for task_id, document in connection.execute(query):
        try:
            views[task_id] = TaskView.model_validate_json(document)
        except ValidationError as exc:
            # Another version wrote it, or the disk lies. The events to come, or the bucket, make it again.
            log.error("view_unreadable", task_id=task_id, error_message=str(exc))  # noqa: TRY400 - the stack says nothing
    return views


def _save(connection: Connection, views: list[TaskView]) -> None:
    if not views:
        return
    upsert = insert(TASKS)
    upsert = upsert.on_conflict_do_update(index_elements=[TASKS.c.task_id], set_={"view": upsert.excluded.view})
    connection.execute(
        upsert, [{"task_id": view.task_id, "view": view.model_dump_json(exclude_none=True)} for view in views]
    )


def _advance(connection: Connection, seen_until: datetime) -> None:
    upsert = insert(FEEDS).values(name=_EVENTS_FEED, seen_until=(seen_until - _EPOCH) // _MICROSECOND)
    later = upsert.excluded.seen_until
    connection.execute(
        upsert.on_conflict_do_update(
            index_elements=[FEEDS.c.name], set_={"seen_until": later}, where=later > FEEDS.c.seen_until
        )
    )


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as exc:
        message = f"the database failed: {type(exc).__name__}: {getattr(exc, 'orig', None)}"
        raise ViewStoreError(message) from exc
