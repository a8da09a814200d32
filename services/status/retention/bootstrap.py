"""The composition root of the retention command: settings in, what removes out."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from services.status.retention.retention import Retention, Terms
from services.status.store.database import open_database
from shared.storage.s3 import S3Store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.status.config import RetentionSettings, StatusRetentionSettings


@contextmanager
def retention(settings: StatusRetentionSettings) -> Iterator[Retention]:
    """Build it. Raises ConfigurationError for settings that cannot be used, ViewStoreError without a database."""
    database = open_database(settings.database_url.get_secret_value())
    try:
        yield Retention(store=database.retention, objects=S3Store(settings), terms=terms_of(settings))
    finally:
        database.close()


def terms_of(settings: RetentionSettings) -> Terms:
    """The terms that an operator has set."""
    return Terms(
        news=timedelta(hours=settings.keep_news_hours),
        deliveries=timedelta(days=settings.keep_deliveries_days),
        tasks=timedelta(days=settings.keep_tasks_days),
    )
