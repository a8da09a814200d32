"""From a place in the log to its end and on: what one stream is sent, without a gap and without a repeat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from services.status.errors import ViewStoreError
from services.status.streams.bulletins import Bulletin
from services.status.streams.mailbox import HEARTBEAT, End

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from services.status.news import News
    from services.status.store.ports import NewsLog
    from services.status.streams.bulletins import Encoder
    from services.status.streams.hub import NewsHub
    from services.status.streams.mailbox import Mailbox
    from services.status.streams.places import Place

PAGE: Final = 200
PIECE_BYTES: Final = 64 * 1024
RETRY_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What a stream is about. It begins with ``greeting``, goes on behind ``start``; ``newest`` was the log's end then.

    A stream of a task ends with it; ``farewell`` is the end of one that has ended, for when the log has it no more.
    ``shown`` is the rank of a snapshot that was sent: older news is left out. Operators' streams are ``named``.
    """

    topic: str
    start: Place
    newest: int
    greeting: bytes
    tenant_id: str | None = None
    task_id: str | None = None
    farewell: bytes | None = None
    shown: tuple[int, int] | None = None
    named: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where news comes from: the log for what was, the hub for what is."""

    news: NewsLog
    hub: NewsHub
    encode: Encoder
    sleep: Callable[[float], None]


class Follower:
    """Makes the pieces of one stream."""

    __slots__ = ("_course", "_mailbox", "_position", "_sources", "sent")

    def __init__(self, course: Course, mailbox: Mailbox, sources: Sources) -> None:
        self._course = course
        self._mailbox = mailbox
        self._sources = sources
        self._position = course.start.position
        self.sent = 0

    def pieces(self) -> Iterator[bytes]:
        """Everything to send, in order, until the task or the mailbox ends."""
        yield self._course.greeting
        yield from self._replay()
        while self._mailbox.end is None:
            yield from self._written(self._mailbox.take())

    def leave(self) -> None:
        """Be told no more."""
        self._sources.hub.leave(self._course.topic, self._mailbox)

    def _replay(self) -> Iterator[bytes]:
        # While much is left to replay it does not listen yet, or its mailbox would fill meanwhile.
        near = self._course.newest - self._position < PAGE
        listens = False
        while self._mailbox.end is None:
            try:
                if near and not listens and self._course.farewell is None:
                    epoch = self._sources.hub.listen(self._course.topic, self._mailbox)
                    listens = True
                    if epoch != self._course.start.epoch:
                        self._mailbox.lose_track()
                        return
                page = self._page()
            except ViewStoreError:
                yield HEARTBEAT
                self._sources.sleep(RETRY_SECONDS)
                continue
            yield from self._written(page)
            # SQLite and a reader that takes everything at once let nobody else have a turn.
            self._sources.sleep(0)
            # A short page says nothing: what this version cannot read is left out.
            if not page:
                if listens:
                    return
                if self._course.farewell is not None and self._mailbox.end is None:
                    yield self._course.farewell
                    self._mailbox.finish(End.FINISHED)
                near = True

    def _page(self) -> list[Bulletin]:
        course, sources = self._course, self._sources
        page = sources.news.after(self._position, PAGE, tenant_id=course.tenant_id, task_id=course.task_id)
        return [Bulletin(course.start.epoch, logged, sources.encode) for logged in page]

    def _written(self, items: Iterable[Bulletin | bytes]) -> Iterator[bytes]:
        """Items in pieces of a bounded size."""
        parts: list[bytes] = []
        size = 0
        for item in items:
            if isinstance(item, bytes):
                text = item
            elif item.position > self._position:
                self._position = item.position
                if self._is_shown(item.news):
                    continue
                text = item.text(named=self._course.named)
                self.sent += 1
                if self._course.task_id is not None and item.news.state.is_final:
                    yield b"".join((*parts, text))
                    self._mailbox.finish(End.FINISHED)
                    return
            else:
                continue
            parts.append(text)
            size += len(text)
            if size >= PIECE_BYTES:
                yield b"".join(parts)
                parts, size = [], 0
        if parts:
            yield b"".join(parts)

    def _is_shown(self, news: News) -> bool:
        shown = self._course.shown
        return shown is not None and not news.state.is_final and (news.attempt, news.sequence) <= shown
