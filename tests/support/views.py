"""Views of tasks, made as the status service makes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.status.projection import apply

if TYPE_CHECKING:
    from collections.abc import Iterable

    from services.status.view import TaskView
    from shared.contracts.event import TaskEvent


def replayed(events: Iterable[TaskEvent]) -> TaskView:
    """The view that these events make, applied one after the other."""
    view: TaskView | None = None
    for event in events:
        view = apply(view, event)
    assert view is not None
    return view
