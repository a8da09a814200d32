"""The status database as a process uses it: every store over the same connections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.status.store.deliveries_sql import SqlDeliveryStore
from services.status.store.engine import open_engine
from services.status.store.news_sql import SqlNewsLog
from services.status.store.retention_sql import SqlRetentionStore
from services.status.store.sql import SqlTaskViewStore
from services.status.store.work_sql import SqlWorkStore

if TYPE_CHECKING:
    from sqlalchemy import Engine


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """The stores of one database."""

    engine: Engine
    views: SqlTaskViewStore
    work: SqlWorkStore
    news: SqlNewsLog
    deliveries: SqlDeliveryStore
    retention: SqlRetentionStore

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


def open_database(url: str, feed: str = "") -> Database:
    """The database at an address, up to date. ``feed`` names a consumer of events.

    Raises ConfigurationError, or ViewStoreError when it does not answer.
    """
    engine = open_engine(url)
    views = SqlTaskViewStore(engine, feed)
    views.prepare()
    return Database(
        engine=engine,
        views=views,
        work=SqlWorkStore(engine),
        news=SqlNewsLog(engine),
        deliveries=SqlDeliveryStore(engine),
        retention=SqlRetentionStore(engine),
    )
