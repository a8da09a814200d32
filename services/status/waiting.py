"""Waiting for a task to get somewhere. Adapter: services.status.streams.waiter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.status.view import TaskView


class ViewWaiter(Protocol):
    """Waits for views."""

    def wait_for(self, task_id: str, wanted: Callable[[TaskView | None], bool], seconds: float) -> TaskView | None:
        """The task's view as soon as it is as wanted, or whatever it is after so many seconds.

        ``wanted`` may depend on more than the view. Raises ViewStoreError.
        """
        ...

    def wait_for_end(self, task_id: str, seconds: float) -> TaskView | None:
        """The task's view as soon as it has ended, or whatever it is after so many seconds. Raises ViewStoreError."""
        ...
