"""One open stream: an iterator for the server to write, and what the registry looks after meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.status.streams.connection import NoConnection
from services.status.streams.follow import Follower
from services.status.streams.mailbox import End, Mailbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from services.status.streams.connection import Connection
    from services.status.streams.follow import Course, Sources

# How long a client's socket may take nothing.
STALL_SECONDS: Final = 30.0
RECHECK_SECONDS: Final = 60.0


class NewsStream:
    """The pieces of one stream. It is being written to its socket from one ``next`` to the other."""

    __slots__ = (
        "_checked_at",
        "_clock",
        "_closed",
        "_connection",
        "_counted",
        "_follower",
        "_in_force",
        "_mailbox",
        "_on_close",
        "_pieces",
        "_touched_at",
        "_writing",
        "began_at",
    )

    def __init__(
        self,
        course: Course,
        in_force: Callable[[], bool],
        sources: Sources,
        *,
        clock: Callable[[], float],
        on_close: Callable[[NewsStream], None],
    ) -> None:
        self._mailbox = Mailbox()
        self._follower = Follower(course, self._mailbox, sources)
        self._pieces: Iterator[bytes] | None = None
        self._in_force = in_force
        self._connection: Connection = NoConnection()
        self._clock = clock
        self._on_close = on_close
        self._closed = False
        self._counted = 0
        self._writing = False
        self.began_at = self._touched_at = self._checked_at = clock()

    @property
    def sent(self) -> int:
        """How many events."""
        return self._follower.sent

    def attach(self, connection: Connection) -> None:
        """Learn where the pieces go, before the first."""
        self._connection = connection

    def count_sent(self) -> int:
        """How many events since the last call."""
        before, self._counted = self._counted, self._follower.sent
        return self._counted - before

    @property
    def end(self) -> End:
        """Why it ended; a client whose stream ends without a reason has gone."""
        return self._mailbox.end or End.GONE

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self._writing = False
        if self._closed:
            raise StopIteration
        if self._pieces is None:
            self._pieces = self._follower.pieces()
            self._connection.watch(self._gone)
        piece = next(self._pieces)
        self._touched_at, self._writing = self._clock(), True
        return piece

    def close(self) -> None:
        """Give everything back. The server calls it, however the stream ended."""
        if self._closed:
            return
        self._closed = True
        self._connection.release()
        self._follower.leave()
        self._on_close(self)

    def tend(self, now: float, heartbeat_seconds: float) -> None:
        """Keep it alive, or let go of a client that is gone without a word."""
        if self._mailbox.end is not None:
            if self._writing and now - self._touched_at >= 1.0:
                self._connection.cut()
        elif self._writing:
            if now - self._touched_at >= STALL_SECONDS:
                self._mailbox.finish(End.STALLED)
                self._connection.cut()
        elif now - self._touched_at >= heartbeat_seconds:
            self._touched_at = now
            self._mailbox.beat()

    def recheck(self, now: float) -> None:
        """End it when its key is not in force any more; asked once in a while."""
        if self._mailbox.end is None and now - self._checked_at >= RECHECK_SECONDS:
            self._checked_at = now
            if not self._in_force():
                self._mailbox.finish(End.REVOKED)

    def _gone(self) -> None:
        self._mailbox.finish(End.GONE)
