"""Task views in a SQL database, and beside each, in the same transaction, the task as work for the sweeper."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.dialects.sqlite import insert

from services.status.news import news_of
from services.status.projection import apply_to, concerned
from services.status.store.news_sql import save_news, save_notices
from services.status.store.positions import make_epoch
from services.status.store.rows import EVENTS_FEED, load_seen_until, load_views, load_work, save_views, save_work
from services.status.store.sqlite import WRITES, sqlite_engine
from services.status.store.standing_sql import load_standing
from services.status.store.tables import FEEDS, TASKS, create_missing, to_microseconds, translated
from services.status.webhooks.notices import notice_of
from services.status.work import follow
from shared.domain.task import EventType
from shared.ids import first_task_id

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from sqlalchemy import Connection, Engine

    from services.status.news import News
    from services.status.store.ports import TaskFilter
    from services.status.view import TaskView
    from services.status.webhooks.notices import Notice
    from services.status.work import Standing, Work
    from shared.contracts.event import TaskEvent


class SqlTaskViewStore:
    """A TaskViewStore over SQLAlchemy Core. Thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self._reader = engine
        self._writer = engine.execution_options(**{WRITES: True})

    def prepare(self) -> None:
        """See TaskViewStore."""
        with translated(), self._writer.begin() as connection:
            create_missing(connection)
            make_epoch(connection)

    def apply_events(
        self, events: Sequence[TaskEvent], *, seen_until: datetime | None, tell_since: datetime | None = None
    ) -> None:
        """See TaskViewStore."""
        with translated(), self._writer.begin() as connection:
            before = load_views(connection, {task_id for event in events for task_id in concerned(event)})
            after = dict(before)
            # Progress says nothing about work that the news of its start has not said.
            known = load_work(connection, {event.task_id for event in events if event.type is not EventType.PROGRESS})
            changed: dict[str, Work] = {}
            news: list[News] = []
            notices: list[Notice] = []
            for event in events:
                old = after.get(event.task_id)
                apply_to(after, event)
                view = after[event.task_id]
                told = news_of(event, old, view)
                if told is not None and (tell_since is None or told.at >= tell_since):
                    news.append(told)
                    notices += [notice] if (notice := notice_of(told, old, view)) is not None else []
                if event.type is not EventType.PROGRESS and view is not old:
                    work = follow(changed.get(event.task_id) or known.get(event.task_id), event, view)
                    changed |= {} if work is None else {event.task_id: work}
            save_views(connection, [view for task_id, view in after.items() if view is not before.get(task_id)])
            save_work(connection, list(changed.values()))
            save_news(connection, news)
            save_notices(connection, notices)
            if seen_until is not None:
                _advance(connection, seen_until)

    def get(self, task_id: str) -> TaskView | None:
        """See TaskViewStore."""
        with translated(), self._reader.connect() as connection:
            return load_views(connection, {task_id}).get(task_id)

    def standing(self, task_id: str, now: datetime) -> Standing | None:
        """See TaskViewStore."""
        with translated(), self._reader.connect() as connection:
            return load_standing(connection, task_id, now)

    def page(self, after: str, limit: int) -> tuple[Sequence[TaskView], str | None]:
        """See TaskViewStore."""
        query = select(TASKS.c.task_id).where(TASKS.c.task_id > after).order_by(TASKS.c.task_id).limit(limit)
        with translated(), self._reader.connect() as connection:
            ids = list(connection.execute(query).scalars())
            views = load_views(connection, set(ids))
        return list(views.values()), ids[-1] if len(ids) == limit else None

    def listed(self, wanted: TaskFilter, before: str | None, limit: int) -> Sequence[TaskView]:
        """See TaskViewStore."""
        query = select(TASKS.c.task_id)
        if wanted.tenant_id is not None:
            query = query.where(TASKS.c.tenant_id == wanted.tenant_id)
        if wanted.states is not None:
            query = query.where(TASKS.c.state.in_(wanted.states))
        if wanted.model is not None:
            query = query.where(TASKS.c.model == wanted.model)
        if wanted.since is not None:
            query = query.where(TASKS.c.task_id >= first_task_id(wanted.since.timestamp()))
        bounds = [before] if before is not None else []
        bounds += [first_task_id(wanted.until.timestamp())] if wanted.until is not None else []
        if bounds:
            query = query.where(TASKS.c.task_id < min(bounds))
        with translated(), self._reader.connect() as connection:
            ids = list(connection.execute(query.order_by(TASKS.c.task_id.desc()).limit(limit)).scalars())
            views = load_views(connection, set(ids))
        return [views[task_id] for task_id in ids if task_id in views]

    def seen_until(self) -> datetime | None:
        """See TaskViewStore."""
        with translated(), self._reader.connect() as connection:
            return load_seen_until(connection)

    def check(self) -> None:
        """See TaskViewStore."""
        with translated(), self._writer.begin() as connection:
            connection.execute(select(1))

    def close(self) -> None:
        """Close every connection."""
        self._reader.dispose()


def open_store(url: str) -> SqlTaskViewStore:
    """The store at an address, ready for use. Raises ConfigurationError, or ViewStoreError when it does not answer."""
    store = SqlTaskViewStore(sqlite_engine(url))
    store.prepare()
    return store


def _advance(connection: Connection, seen_until: datetime) -> None:
    upsert = insert(FEEDS).values(name=EVENTS_FEED, seen_until=to_microseconds(seen_until))
    later = upsert.excluded.seen_until
    connection.execute(
        upsert.on_conflict_do_update(
            index_elements=[FEEDS.c.name], set_={"seen_until": later}, where=later > FEEDS.c.seen_until
        )
    )
