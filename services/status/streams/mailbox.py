"""What waits to be sent to one client. It never grows without bound: who does not keep up is dropped."""

from __future__ import annotations

import threading
from collections import deque
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from services.status.streams.bulletins import Bulletin

MOST_WAITING: Final = 256
HEARTBEAT: Final = b": heartbeat\n"


class End(StrEnum):
    """Why a stream ended."""

    FINISHED = "finished"  # the task has
    GONE = "gone"  # the client has
    SLOW = "slow"  # its mailbox was full
    STALLED = "stalled"  # its socket took nothing for too long
    REVOKED = "revoked"  # its key is not in force any more
    RESET = "reset"  # the log is another one, or ran ahead


class Mailbox:
    """A Listener with a bounded queue. Once it has ended it holds nothing and takes nothing."""

    __slots__ = ("_items", "_ring", "end")

    def __init__(self) -> None:
        self._items: deque[Bulletin | bytes] = deque()
        self._ring = threading.Event()
        self.end: End | None = None

    def hear(self, bulletin: Bulletin) -> None:
        """See Listener."""
        self._put(bulletin)

    def lose_track(self) -> None:
        """See Listener. The client comes again, and is told."""
        self.finish(End.RESET)

    def beat(self) -> None:
        """Have a heartbeat sent."""
        self._put(HEARTBEAT)

    def finish(self, end: End) -> None:
        """End it; the first reason stands."""
        if self.end is None:
            self.end = end
            self._items.clear()
            self._ring.set()

    def take(self, seconds: float | None = None) -> list[Bulletin | bytes]:
        """Wait until there is something, the end, or the time is over; return what is there."""
        self._ring.wait(seconds)
        self._ring.clear()
        taken = []
        while self._items:
            taken.append(self._items.popleft())
        if self.end is not None:
            self._ring.set()
            return []
        return taken

    def _put(self, item: Bulletin | bytes) -> None:
        if self.end is not None:
            return
        if len(self._items) >= MOST_WAITING:
            self.finish(End.SLOW)
            return
        self._items.append(item)
        self._ring.set()
