"""The one reader of the news in a process: it reads the log while anybody listens, and tells whoever it concerns."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from services.status.errors import ViewStoreError
from services.status.streams.bulletins import EVERYTHING, Bulletin, task_topic, tenant_topic
from services.status.streams.places import Place
from shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from services.status.news import LoggedNews
    from services.status.store.ports import NewsLog
    from services.status.streams.bulletins import Encoder, Listener
    from services.status.streams.metrics import StreamMetrics
    from shared.clock import Clock

log = get_logger(__name__)

PAGE: Final = 1000
LOOK_SECONDS: Final = 0.02
FAILURE_SECONDS: Final = 1.0
# How long it reads on when nobody listens any more: long polls come and go.
LINGER_SECONDS: Final = 10.0
VERIFY_SECONDS: Final = 5.0


class NewsHub:
    """Fans the log out to listeners. ``look`` is one look at the log, for a thread of its own to repeat."""

    def __init__(
        self, news: NewsLog, encode: Encoder, metrics: StreamMetrics, *, clock: Callable[[], float], now: Clock
    ) -> None:
        self._news = news
        self._encode = encode
        self._metrics = metrics
        self._clock, self._now = clock, now
        self._lock = threading.Lock()
        self._wanted = threading.Event()
        self._listeners: dict[str, set[Listener]] = {}
        self._place: Place | None = None  # None while it sleeps
        self._left_at = 0.0
        self._verified_at = 0.0
        self._failed = False

    def listen(self, topic: str, listener: Listener) -> str:
        """Tell a listener of all news that is logged from now on. Returns the log's epoch. Raises ViewStoreError."""
        self._wake()
        with self._lock:
            self._listeners.setdefault(topic, set()).add(listener)
        try:
            # It may have fallen asleep in between, before it could know of this listener.
            return self._wake()
        except ViewStoreError:
            self.leave(topic, listener)
            raise

    def leave(self, topic: str, listener: Listener) -> None:
        """Tell it no more."""
        with self._lock:
            listeners = self._listeners.get(topic)
            if listeners is None:
                return
            listeners.discard(listener)
            if not listeners:
                del self._listeners[topic]
            self._left_at = self._clock()

    def look(self) -> float:
        """Read on and tell. Returns the seconds until the next look."""
        if not self._wanted.is_set():
            self._wanted.wait()
        place = self._awake()
        if place is None:
            return 0.0
        try:
            page = self._read(place)
        except ViewStoreError as exc:
            if not self._failed:
                log.warning("news_unavailable", error_message=exc.message)
            self._failed = True
            return FAILURE_SECONDS
        if self._failed:
            log.info("news_back")
            self._failed = False
        return 0.0 if len(page) == PAGE else LOOK_SECONDS

    def _wake(self) -> str:
        place = self._place
        if place is None:
            newest = Place(self._news.epoch(), self._news.latest())
            with self._lock:
                if self._place is None:
                    self._place = newest
                    self._left_at = self._verified_at = self._clock()
                place = self._place
            self._wanted.set()
        return place.epoch

    def _awake(self) -> Place | None:
        with self._lock:
            if not self._listeners and self._clock() - self._left_at > LINGER_SECONDS:
                self._place = None
                self._wanted.clear()
            return self._place

    def _read(self, place: Place) -> Sequence[LoggedNews]:
        newest = None
        if self._failed or self._clock() - self._verified_at >= VERIFY_SECONDS:
            newest = Place(self._news.epoch(), self._news.latest())
            lost = self._news.oldest() > place.position + 1
            self._verified_at = self._clock()
            if lost or newest.epoch != place.epoch or newest.position < place.position:
                self._reset(place, newest)
                return ()
        page = self._news.after(place.position, PAGE)
        if page:
            self._tell(place.epoch, page)
        elif newest is not None:
            # Whatever lies between cannot be read by this version.
            self._move(newest)
        return page

    def _reset(self, place: Place, newest: Place) -> None:
        log.warning("news_reset", place=str(place), newest=str(newest))
        with self._lock:
            self._place = newest
            for listeners in self._listeners.values():
                for listener in listeners:
                    listener.lose_track()

    def _move(self, place: Place) -> None:
        with self._lock:
            self._place = place

    def _tell(self, epoch: str, page: Sequence[LoggedNews]) -> None:
        now = self._now()
        with self._lock:
            for logged in page:
                news = logged.news
                topics = (task_topic(news.task_id), tenant_topic(news.tenant_id), EVERYTHING)
                found = [listeners for topic in topics if (listeners := self._listeners.get(topic))]
                if found:
                    bulletin = Bulletin(epoch, logged, self._encode)
                    for listeners in found:
                        for listener in listeners:
                            listener.hear(bulletin)
                    self._metrics.lag.observe(max(0.0, (now - news.at).total_seconds()))
            self._place = Place(epoch, page[-1].position)
