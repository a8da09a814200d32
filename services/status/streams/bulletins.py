"""News as streams send it, encoded once for all of them, and the topics that they listen to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from services.status.streams.places import Place

if TYPE_CHECKING:
    from services.status.news import LoggedNews, News

EVERYTHING: Final = "*"


def task_topic(task_id: str) -> str:
    """What happens to one task."""
    return f"task:{task_id}"


def tenant_topic(tenant_id: str) -> str:
    """What happens to a tenant's tasks."""
    return f"tenant:{tenant_id}"


class Encoder(Protocol):
    """Makes an event of a stream. ``named`` adds whose task it is, which is for operators alone."""

    def __call__(self, place: Place, news: News, *, named: bool) -> bytes:
        """The event, with the empty line that ends it."""
        ...


class Bulletin:
    """One piece of news at its position."""

    __slots__ = ("_encode", "_epoch", "_named", "_plain", "news", "position")

    def __init__(self, epoch: str, logged: LoggedNews, encode: Encoder) -> None:
        self.position = logged.position
        self.news = logged.news
        self._epoch = epoch
        self._encode = encode
        self._named: bytes | None = None
        self._plain: bytes | None = None

    def text(self, *, named: bool) -> bytes:
        """The event, see Encoder."""
        if named:
            if self._named is None:
                self._named = self._encode(Place(self._epoch, self.position), self.news, named=True)
            return self._named
        if self._plain is None:
            self._plain = self._encode(Place(self._epoch, self.position), self.news, named=False)
        return self._plain


class Listener(Protocol):
    """Who is told of bulletins. Methods are called by the hub and must neither wait nor fail."""

    def hear(self, bulletin: Bulletin) -> None:
        """The next bulletin on the listener's topic."""
        ...

    def lose_track(self) -> None:
        """News may have been missed: the log is another one now, or ran ahead."""
        ...
