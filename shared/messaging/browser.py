"""Looking into a queue. Messages are fetched without being acked, and given back at the end.

A classic queue puts what is given back, or was held by a channel that died, where it was (measured on RabbitMQ 3.10 and
4.0). A quorum queue keeps every message as well, but of more than 32 that come back at once not the order, nor of those
that a dead channel held; it counts returns against its delivery limit (``DELIVERY_LIMIT``).
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from pika.exceptions import AMQPError

from shared.domain.errors import BrokerError, BrokerUnavailableError
from shared.logging import get_logger
from shared.messaging.connection import ConnectionThread
from shared.messaging.wire import delivery_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pika.adapters.blocking_connection import BlockingChannel

    from shared.messaging.ports import Delivery

T = TypeVar("T")
log = get_logger(__name__)

_CALL_SECONDS: Final = 15.0
_PUT_BACK_SECONDS: Final = 10.0
_POLL_SECONDS: Final = 0.02


class RabbitLook:
    """A QueueLook over a channel of its own, which is gone together with its connection, and with it every tag."""

    def __init__(self, thread: ConnectionThread, queue: str) -> None:
        self._thread = thread
        self._queue = queue
        self._held = 0
        self._channel, self._left = self._call(self._open)

    def page(self, limit: int) -> list[Delivery]:
        """See QueueLook."""
        return self._call(lambda _: self._fetch(limit))

    def take_out(self, delivery: Delivery) -> None:
        """See QueueLook."""

        def ack(_: BlockingChannel) -> None:
            self._channel.basic_ack(delivery.tag)
            self._ready()  # acks have no answer; what is answered later on the same channel comes after them

        self._call(ack)
        self._held -= 1

    def end(self) -> None:
        """Give back what is held. Where that fails, the broker does it as soon as the channel is gone."""
        try:
            if self._held:
                self._give_back()
            self._call(lambda _: self._channel.close())
        except BrokerError as exc:
            log.warning("look_ended_by_force", queue=self._queue, error_message=exc.message)

    def _give_back(self) -> None:
        def nack(_: BlockingChannel) -> int:
            before = self._ready()
            self._channel.basic_nack(0, multiple=True, requeue=True)  # tag 0: all that are outstanding
            return before

        # The broker puts back in its own time, a thousand in tens of milliseconds, and answers other questions
        # meanwhile: whoever looks next would see but a part. Another consumer may take some away, hence the bound.
        expected = self._call(nack) + self._held
        deadline = time.monotonic() + _PUT_BACK_SECONDS
        while self._call(lambda _: self._ready()) < expected and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)

    def _open(self, own: BlockingChannel) -> tuple[BlockingChannel, int]:
        channel = own.connection.channel()
        return channel, channel.queue_declare(self._queue, passive=True).method.message_count

    def _fetch(self, limit: int) -> list[Delivery]:
        page: list[Delivery] = []
        while self._left and len(page) < limit:
            method, properties, body = self._channel.basic_get(self._queue)
            if method is None or properties is None:
                self._left = 0
                break
            self._left -= 1
            self._held += 1
            page.append(delivery_of(method, properties, body or b"", self._thread.epoch))
        return page

    def _ready(self) -> int:
        # Passive: it is refused when there is no such queue.
        return self._channel.queue_declare(self._queue, passive=True).method.message_count

    def _call(self, function: Callable[[BlockingChannel], T]) -> T:
        try:
            return self._thread.call(function, _CALL_SECONDS)
        except AMQPError as exc:
            message = f"looking into {self._queue} broke: {type(exc).__name__}: {exc}"
            raise BrokerUnavailableError(message) from exc


class RabbitBrowser:
    """A QueueBrowser with a connection of its own, whose heartbeats go on however long a look takes."""

    def __init__(self, url: str, name: str, queue: str) -> None:
        self._queue = queue
        self._thread = ConnectionThread(url, name)

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    def stop(self) -> None:
        """Close the connection."""
        self._thread.stop()

    @contextmanager
    def look(self) -> Iterator[RabbitLook]:
        """See QueueBrowser."""
        look = RabbitLook(self._thread, self._queue)
        try:
            yield look
        finally:
            look.end()
