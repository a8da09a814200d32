"""The news of tasks in the status database, and the callbacks that are owed for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError
from sqlalchemy import func, select

from services.status.news import LoggedNews, News
from services.status.store.dialect import insert_into, write_rows
from services.status.store.documents import document_of
from services.status.store.positions import NEWS_POSITIONS, load_epoch, load_position, take_positions
from services.status.store.tables import DELIVERIES, NEWS, to_microseconds, translated
from services.status.webhooks.deliveries import GIVE_UP_AFTER, DeliveryState, line_of
from shared.clock import utc_now
from shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection, Engine

    from services.status.webhooks.notices import Notice

log = get_logger(__name__)


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
    now = to_microseconds(utc_now())
    until = to_microseconds(utc_now() + GIVE_UP_AFTER)  # from now: news may have been late
    rows = [
        {
            "webhook_id": notice.webhook_id,
            "task_id": notice.task_id,
            "tenant_id": notice.tenant_id,
            "url": notice.url,
            "line": line_of(notice.tenant_id, notice.url),
            "type": notice.type,
            "body": notice.body,
            "state": DeliveryState.PENDING,
            "tries": 0,
            "created_at": to_microseconds(notice.created_at),
            "due_at": min(to_microseconds(notice.created_at), now),  # the clock of whoever made the event may be fast
            "until_at": until,
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
        return [logged for place, document in rows if (logged := _logged(place, document)) is not None]


def _logged(position: int, document: str) -> LoggedNews | None:
    try:
        return LoggedNews(position, News.model_validate_json(document))
    except ValidationError as exc:
        # Another version wrote it. Those who follow go on with the next.
        log.error("news_unreadable", position=position, error_message=str(exc))  # noqa: TRY400 - the stack says nothing
        return None
