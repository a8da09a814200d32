"""The news of tasks in the status database, and the callbacks that are owed for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from sqlalchemy import func, select

from services.status.news import LoggedNews, News
from services.status.store.dialect import insert_into, write_rows
from services.status.store.documents import document_of
from services.status.store.positions import NEWS_POSITIONS, load_epoch, load_position, take_positions
from services.status.store.tables import DELIVERIES, NEWS, to_microseconds, translated
from services.status.webhooks.deliveries import DeliveryState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Engine

    from services.status.webhooks.notices import Notice

_LONGEST_HOST: Final = 255


def save_news(connection: Connection, news: Sequence[News]) -> None:
    """Log news at the next positions."""
    if not news:
        return
    first = take_positions(connection, NEWS_POSITIONS, len(news))
    rows = [news_row(position, one) for position, one in enumerate(news, first)]
    write_rows(connection, NEWS, rows)


def news_row(position: int, news: News) -> dict[str, object]:
    """News as a row."""
    return {
        "position": position,
        "task_id": news.task_id,
        "tenant_id": news.tenant_id,
        "at": to_microseconds(news.at),
        "document": document_of(news),
    }


def save_notices(connection: Connection, notices: Sequence[Notice]) -> None:
    """Owe callbacks, but for those that are owed already."""
    if not notices:
        return
    rows = [
        {
            "webhook_id": notice.webhook_id,
            "task_id": notice.task_id,
            "tenant_id": notice.tenant_id,
            "url": notice.url,
            "host": (urlsplit(notice.url).hostname or "")[:_LONGEST_HOST],
            "type": notice.type,
            "body": notice.body,
            "state": DeliveryState.PENDING,
            "tries": 0,
            "created_at": to_microseconds(notice.created_at),
            "due_at": to_microseconds(notice.created_at),
            "holder": "",
            "attempts": "[]",
        }
        for notice in notices
    ]
    insert = insert_into(connection, DELIVERIES)
    connection.execute(insert.on_conflict_do_nothing(index_elements=[DELIVERIES.c.webhook_id]), rows)


class SqlNewsLog:
    """A NewsLog over SQLAlchemy Core. Thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def epoch(self) -> str:
        """See NewsLog."""
        with translated(), self._engine.connect() as connection:
            return load_epoch(connection)

    def latest(self) -> int:
        """See NewsLog."""
        with translated(), self._engine.connect() as connection:
            return load_position(connection, NEWS_POSITIONS)

    def oldest(self) -> int:
        """See NewsLog."""
        with translated(), self._engine.connect() as connection:
            first: int | None = connection.execute(select(func.min(NEWS.c.position))).scalar()
            return first if first is not None else load_position(connection, NEWS_POSITIONS) + 1

    def after(
        self, position: int, limit: int, *, tenant_id: str | None = None, task_id: str | None = None
    ) -> Sequence[LoggedNews]:
        """See NewsLog."""
        query = select(NEWS.c.position, NEWS.c.document).where(NEWS.c.position > position)
        if tenant_id is not None:
            query = query.where(NEWS.c.tenant_id == tenant_id)
        if task_id is not None:
            query = query.where(NEWS.c.task_id == task_id)
        with translated(), self._engine.connect() as connection:
            rows = connection.execute(query.order_by(NEWS.c.position).limit(limit)).all()
        return [LoggedNews(place, News.model_validate_json(document)) for place, document in rows]
