"""A ViewWaiter for worlds whose time passes only while somebody waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.status.store.ports import TaskViewStore
    from services.status.view import TaskView

_FIRST_PAUSE_SECONDS: Final = 0.02
_LONGEST_PAUSE_SECONDS: Final = 0.25
_GROWTH: Final = 1.5


class PollingWaiter:
    """A ViewWaiter that looks again and again, less often the longer it takes."""

    def __init__(self, store: TaskViewStore, *, clock: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self._store = store
        self._clock = clock
        self._sleep = sleep

    def wait_for_end(self, task_id: str, seconds: float) -> TaskView | None:
        """See ViewWaiter."""
        return self.wait_for(task_id, lambda view: view is not None and view.state.is_final, seconds)

    def wait_for(self, task_id: str, wanted: Callable[[TaskView | None], bool], seconds: float) -> TaskView | None:
        """See ViewWaiter."""
        deadline = self._clock() + seconds
        pause = _FIRST_PAUSE_SECONDS
        while True:
            view = self._store.get(task_id)
            left = deadline - self._clock()
            if wanted(view) or left <= 0:
                return view
            self._sleep(min(pause, left))
            pause = min(pause * _GROWTH, _LONGEST_PAUSE_SECONDS)
