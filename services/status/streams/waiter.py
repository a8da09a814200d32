"""Long polls, woken by the news of their task."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from services.status.streams.bulletins import task_topic

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.status.store.ports import TaskViewStore
    from services.status.streams.bulletins import Bulletin
    from services.status.streams.hub import NewsHub
    from services.status.view import TaskView


class _Bell:
    """A Listener that only rings."""

    __slots__ = ("ring",)

    def __init__(self) -> None:
        self.ring = threading.Event()

    def hear(self, bulletin: Bulletin) -> None:
        del bulletin
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
        deadline = self._clock() + seconds
        bell, topic = _Bell(), task_topic(task_id)
        self._hub.listen(topic, bell)
        try:
            while True:
                view = self._store.get(task_id)
                left = deadline - self._clock()
                if wanted(view) or left <= 0:
                    return view
                bell.ring.wait(left)
                bell.ring.clear()
        finally:
            self._hub.leave(topic, bell)
