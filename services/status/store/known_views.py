"""Views that this process has just read or written, so that it need not parse them again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.status.store.rows import view_from

if TYPE_CHECKING:
    from services.status.view import TaskView

MOST: Final = 4000


class KnownViews:
    """Views of open tasks by their documents. Whoever else writes a view makes it another document.

    For the transactions that write, which come one after the other.
    """

    def __init__(self) -> None:
        self._views: dict[str, tuple[str, TaskView]] = {}

    def view_of(self, task_id: str, document: str) -> TaskView | None:
        """A document as a view, or None where it cannot be read."""
        known = self._views.get(task_id)
        return known[1] if known is not None and known[0] == document else view_from(task_id, document)

    def note(self, view: TaskView, document: str) -> None:
        """Remember a view as it was written. The one that was first remembered makes room."""
        if view.state.is_final:
            self._views.pop(view.task_id, None)
            return
        self._views[view.task_id] = (document, view)
        if len(self._views) > MOST:
            del self._views[next(iter(self._views))]
