"""Long polls, woken by the news of their task."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from services.status.streams.bulletins import task_topic

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.status.store.ports import TaskViewStore
    from services.status.streams.bulletins import Bulletin
    from services.status.streams.hub import NewsHub
    from services.status.view import TaskView


# What is waited for may be more than a task's own news.
LOOK_SECONDS: Final = 0.1


class _Bell:
    """A Listener that only rings: for everything, or for the task's end alone."""

    __slots__ = ("_for_end", "ring")

    def __init__(self, *, for_end: bool) -> None:
        self._for_end = for_end
        self.ring = threading.Event()

    def hear(self, bulletin: Bulletin) -> None:
        if not self._for_end or bulletin.news.state.is_final:
            self.ring.set()

    def lose_track(self) -> None:
        self.ring.set()


class HubWaiter:
    """A ViewWaiter that looks again when there is news."""

    def __init__(self, store: TaskViewStore, hub: NewsHub, *, clock: Callable[[], float]) -> None:
        self._store = store
        self._hub = hub
        self._clock = clock

    def wait_for(self, task_id: str, wanted: Callable[[TaskView | None], bool], seconds: float) -> TaskView | None:
        """See ViewWaiter."""
        return self._wait(task_id, wanted, seconds, _Bell(for_end=False), LOOK_SECONDS)

    def wait_for_end(self, task_id: str, seconds: float) -> TaskView | None:
        """See ViewWaiter. Nothing but the end costs a look at the database."""
        return self._wait(task_id, _has_ended, seconds, _Bell(for_end=True), seconds)

    def _wait(
        self,
        task_id: str,
        wanted: Callable[[TaskView | None], bool],
        seconds: float,
        bell: _Bell,
        look_seconds: float,
    ) -> TaskView | None:
        deadline = self._clock() + seconds
        topic = task_topic(task_id)
        self._hub.listen(topic, bell)
        try:
            while True:
                view = self._store.get(task_id)
                left = deadline - self._clock()
                if wanted(view) or left <= 0:
                    return view
                bell.ring.wait(min(left, look_seconds))
                bell.ring.clear()
        finally:
            self._hub.leave(topic, bell)


def _has_ended(view: TaskView | None) -> bool:
    return view is not None and view.state.is_final
