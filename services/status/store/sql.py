"""Task views in a SQL database, and beside each, in the same transaction, all else that follows from its events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from services.status.applying import Kept, apply_all
from services.status.projection import concerned
from services.status.store.engine import open_engine, writing
from services.status.store.feeds_sql import advance_feed, leave_feed, load_seen_until
from services.status.store.known_views import KnownViews
from services.status.store.listed_sql import load_listed
from services.status.store.migrations.upgrade import upgrade
from services.status.store.news_sql import save_news, save_notices
from services.status.store.rows import load_attempts, load_views, load_work, save_attempts, save_views, save_work
from services.status.store.standing_sql import load_standing
from services.status.store.tables import translated
from shared.domain.task import EventType

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from sqlalchemy import Connection, Engine

    from services.status.attempts import Attempt
    from services.status.store.ports import TaskFilter
    from services.status.view import TaskView
    from services.status.work import Standing
    from shared.contracts.event import TaskEvent


class SqlTaskViewStore:
    """A TaskViewStore over SQLAlchemy Core. Thread-safe.

    Each consumer that applies events beside others has a name of its own as ``feed``: see feeds_sql.
    """

    def __init__(self, engine: Engine, feed: str = "") -> None:
        self._reader = engine
        self._writer = writing(engine)
        self._known = KnownViews()
        self._feed = feed

    def prepare(self) -> None:
        """See TaskViewStore."""
        with translated():
            upgrade(self._reader)

    def apply_events(
        self, events: Sequence[TaskEvent], *, seen_until: datetime | None, tell_since: datetime | None = None
    ) -> None:
        """See TaskViewStore."""
        with translated(), self._writer.begin() as connection:
            changes = apply_all(events, self._load(connection, events), tell_since)
            self._save_views(connection, changes.kept.views.values())
            save_work(connection, changes.kept.work.values())
            save_attempts(connection, changes.kept.attempts.values())
            save_news(connection, changes.news)
            save_notices(connection, changes.notices)
            if seen_until is not None:
                advance_feed(connection, self._feed, seen_until)

    def get(self, task_id: str) -> TaskView | None:
        """See TaskViewStore."""
        with translated(), self._reader.connect() as connection:
            return load_views(connection, {task_id}).get(task_id)

    def attempts(self, task_id: str) -> Sequence[Attempt]:
        """See TaskViewStore."""
        with translated(), self._reader.connect() as connection:
            return [attempt for attempt in load_attempts(connection, {task_id}).values() if attempt.was_made]

    def standing(self, task_id: str, now: datetime) -> Standing | None:
        """See TaskViewStore."""
        with translated(), self._reader.connect() as connection:
            return load_standing(connection, task_id, now)

    def listed(self, wanted: TaskFilter, before: str | None, limit: int) -> Sequence[TaskView]:
        """See TaskViewStore."""
        with translated(), self._reader.connect() as connection:
            return load_listed(connection, wanted, before, limit)

    def seen_until(self) -> datetime | None:
        """See TaskViewStore."""
        with translated(), self._reader.connect() as connection:
            return load_seen_until(connection)

    def leave(self) -> None:
        """This consumer applies no more events, and holds nobody back."""
        with translated(), self._writer.begin() as connection:
            leave_feed(connection, self._feed)

    def check(self) -> None:
        """See TaskViewStore."""
        with translated(), self._writer.begin() as connection:
            connection.execute(select(1))

    def close(self) -> None:
        """Close every connection."""
        self._reader.dispose()

    def _load(self, connection: Connection, events: Sequence[TaskEvent]) -> Kept:
        concerns = {task_id for event in events for task_id in concerned(event)}
        # Progress says nothing about work and attempts that the news of its start has not said.
        telling = {event.task_id for event in events if event.type is not EventType.PROGRESS}
        return Kept(
            views=load_views(connection, concerns, self._known.view_of),
            work=load_work(connection, telling),
            attempts=load_attempts(connection, telling),
        )

    def _save_views(self, connection: Connection, views: Collection[TaskView]) -> None:
        for view, document in zip(views, save_views(connection, views), strict=True):
            self._known.note(view, document)


def open_store(url: str) -> SqlTaskViewStore:
    """The store at an address, up to date. Raises ConfigurationError, or ViewStoreError when it does not answer."""
    store = SqlTaskViewStore(open_engine(url))
    store.prepare()
    return store
