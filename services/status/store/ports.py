"""What the status service asks of its database. Adapters: sql and memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from services.status.view import TaskView
    from shared.contracts.event import TaskEvent


class TaskViewStore(Protocol):
    """Views of tasks. Every method raises ViewStoreError when the database cannot be used."""

    def prepare(self) -> None:
        """Make what is missing in an empty database. Several processes may do so at once."""
        ...

    def apply_events(self, events: Sequence[TaskEvent], *, seen_until: datetime) -> None:
        """Apply events, all or none, and note that everything up to a time has been applied (it never goes back)."""
        ...

    def get(self, task_id: str) -> TaskView | None:
        """One task, or None when no event of it was applied yet."""
        ...

    def page(self, after: str, limit: int) -> tuple[Sequence[TaskView], str | None]:
        """The next ``limit`` tasks by id, and the id to go on after; None when these were the last."""
        ...

    def seen_until(self) -> datetime | None:
        """Every event made before this time has been applied; None before the first ``apply_events``."""
        ...

    def check(self) -> None:
        """Prove that the database can be written."""
        ...
