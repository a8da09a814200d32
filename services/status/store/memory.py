"""Task views in memory, under the same contract tests as the database; for unit tests and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.status.errors import ViewStoreError
from services.status.projection import apply_to

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from services.status.view import TaskView
    from shared.contracts.event import TaskEvent


class MemoryTaskViewStore:
    """A TaskViewStore. While ``available`` is false every call fails as a broken database would."""

    def __init__(self) -> None:
        self._views: dict[str, TaskView] = {}
        self._seen_until: datetime | None = None
        self.available = True

    def prepare(self) -> None:
        """See TaskViewStore."""
        self.check()

    def apply_events(self, events: Sequence[TaskEvent], *, seen_until: datetime) -> None:
        """See TaskViewStore."""
        self.check()
        for event in events:
            apply_to(self._views, event)
        if self._seen_until is None or seen_until > self._seen_until:
            self._seen_until = seen_until

    def get(self, task_id: str) -> TaskView | None:
        """See TaskViewStore."""
        self.check()
        return self._views.get(task_id)

    def page(self, after: str, limit: int) -> tuple[Sequence[TaskView], str | None]:
        """See TaskViewStore."""
        self.check()
        ids = sorted(task_id for task_id in self._views if task_id > after)[:limit]
        return [self._views[task_id] for task_id in ids], ids[-1] if len(ids) == limit else None

    def seen_until(self) -> datetime | None:
        """See TaskViewStore."""
        self.check()
        return self._seen_until

    def check(self) -> None:
        """See TaskViewStore."""
        if not self.available:
            message = "the database is switched off"
            raise ViewStoreError(message)
