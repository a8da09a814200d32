"""What the status database need not hold any more: old news, callbacks that are done with, tasks that ended long ago.

The bucket's outcomes still answer for tasks that were archived. Dying anywhere repeats work: a task may then be in two
files of the archive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from services.status.retention.archive import MEDIA_TYPE, archive_body, archive_key, by_day
from shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime, timedelta

    from services.status.store.ports import RetentionStore
    from shared.storage.ports import ObjectStore

log = get_logger(__name__)

# Rows of one transaction: others wait for it.
BATCH: Final = 500
# Rows of each kind that are removed between two other duties.
PIECE: Final = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How long what is kept."""

    news: timedelta
    deliveries: timedelta
    tasks: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Removed:
    """How many rows a run has removed."""

    news: int
    deliveries: int
    tasks: int


class Retention:
    """Removes what is past its term, in bounded transactions. Any number may run at once."""

    def __init__(self, *, store: RetentionStore, objects: ObjectStore, terms: Terms) -> None:
        self._store = store
        self._objects = objects
        self._terms = terms

    def run(self, now: datetime, limit: int) -> Removed:
        """Remove at most ``limit`` rows of each kind. Raises ViewStoreError, StorageError."""
        removed = Removed(
            news=_repeat(lambda size: self._store.drop_news(now - self._terms.news, size), limit),
            deliveries=_repeat(lambda size: self._store.drop_deliveries(now - self._terms.deliveries, size), limit),
            tasks=_repeat(lambda size: self._archive(now - self._terms.tasks, size), limit),
        )
        if removed != Removed(news=0, deliveries=0, tasks=0):
            log.info("retention_done", news=removed.news, deliveries=removed.deliveries, tasks=removed.tasks)
        return removed

    def run_piece(self, now: datetime) -> bool:
        """Remove what a moment allows; returns whether there may be more. Raises as ``run``."""
        removed = self.run(now, PIECE)
        return PIECE in (removed.news, removed.deliveries, removed.tasks)

    def _archive(self, before: datetime, size: int) -> int:
        tasks = self._store.ended_tasks(before, size)
        dropped = 0
        for day in by_day(tasks):
            key = archive_key(day)
            self._objects.put(key, archive_body(day), media_type=MEDIA_TYPE)
            dropped += self._store.drop_tasks(day)
            log.info("tasks_archived", key=key, count=len(day))
        return dropped


def _repeat(remove: Callable[[int], int], limit: int) -> int:
    done = 0
    while done < limit:
        size = min(BATCH, limit - done)
        count = remove(size)
        done += count
        if count < size:
            break
    return done
