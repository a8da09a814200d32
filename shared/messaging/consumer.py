"""Consuming in threaded processes: one message at a time as late as possible (workers), or in batches (status)."""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING, Final

from pika.exceptions import AMQPError

from shared.domain.errors import BrokerError
from shared.logging import get_logger
from shared.messaging.connection import ConnectionThread
from shared.messaging.wire import delivery_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from pika.adapters.blocking_connection import BlockingChannel
    from pika.spec import Basic, BasicProperties

    from shared.messaging.ports import Delivery

log = get_logger(__name__)

_SETTLE_TIMEOUT_SECONDS: Final = 5.0


class _Consumer:
    """What both kinds share: the connection, and settling with tags that are known to be current."""

    def __init__(self, url: str, name: str, queue_name: str) -> None:
        self._queue_name = queue_name
        self._arrived: queue.SimpleQueue[Delivery] = queue.SimpleQueue()
        self._thread = ConnectionThread(url, name, self._open)

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    def stop(self) -> None:
        """Close the connection; what was not settled goes back to its queue."""
        self._thread.stop()

    @property
    def connected(self) -> bool:
        """Whether the connection is open."""
        return self._thread.connected

    def ack(self, delivery: Delivery, *, multiple: bool = False) -> bool:
        """See Settler."""
        return self._settle(delivery, lambda channel: channel.basic_ack(delivery.tag, multiple=multiple))

    def reject(self, delivery: Delivery) -> bool:
        """See Settler."""
        return self._settle(delivery, lambda channel: channel.basic_reject(delivery.tag, requeue=False))

    def requeue(self, delivery: Delivery) -> bool:
        """See Settler."""
        return self._settle(delivery, lambda channel: channel.basic_reject(delivery.tag, requeue=True))

    def _settle(self, delivery: Delivery, action: Callable[[BlockingChannel], None]) -> bool:
        def settle(channel: BlockingChannel) -> bool:
            if delivery.epoch != self._thread.epoch:
                return False  # a tag of an older connection means another message on this one
            action(channel)
            return True

        # Without a connection the broker has taken the message back already: waiting for the next one settles nothing.
        if delivery.epoch != self._thread.epoch or not self._thread.connected:
            return self._stale(delivery)
        try:
            settled = self._thread.call(settle, _SETTLE_TIMEOUT_SECONDS)
        except (AMQPError, BrokerError) as exc:
            log.warning("settle_failed", error_message=f"{type(exc).__name__}: {exc}")
            return False
        return settled or self._stale(delivery)

    def _stale(self, delivery: Delivery) -> bool:
        log.info("settle_stale", delivery_epoch=delivery.epoch, epoch=self._thread.epoch)
        return False

    def _open(self, channel: BlockingChannel, epoch: int) -> None:
        raise NotImplementedError

    def _next_current(self, deadline: float) -> Delivery | None:
        """The next delivery that belongs to the current connection; older ones come again by themselves."""
        while True:
            try:
                delivery = self._arrived.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return None
            if delivery.epoch == self._thread.epoch:
                return delivery


class LateConsumer(_Consumer):
    """A SingleConsumer that registers only while somebody waits, and leaves when one message has come or none has.

    Prefetch counts per consumer, so an unacked delivery of the consumer before does not hold the next one back, and the
    choice among priorities is made at the last moment. A consumer that stayed while nobody waits would be given a
    message that another worker could start.
    """

    def __init__(self, url: str, name: str, queue_name: str, priority: Callable[[], int] = lambda: 0) -> None:
        """``priority`` is asked at each registration: the broker serves waiting consumers of a higher one first."""
        super().__init__(url, name, queue_name)
        self._priority = priority
        self._wanted = threading.Event()
        # Its tag while registered. It belongs to the connection's thread alone.
        self._consumer: str | None = None

    def take(self, timeout: float) -> Delivery | None:
        """See SingleConsumer."""
        deadline = time.monotonic() + timeout
        delivery = self._next_current(time.monotonic())
        if delivery is not None:
            return delivery
        self._wanted.set()
        if self._thread.wait_connected(timeout):
            self._call(self._register, timeout)
        delivery = self._next_current(deadline)
        if delivery is not None:
            return delivery
        self._wanted.clear()
        if self._thread.connected:
            self._call(self._leave, _SETTLE_TIMEOUT_SECONDS)
        return self._next_current(time.monotonic())

    def _call(self, action: Callable[[BlockingChannel], None], timeout: float) -> None:
        try:
            self._thread.call(action, timeout)
        except (AMQPError, BrokerError) as exc:
            log.warning("consume_failed", queue=self._queue_name, error_message=f"{type(exc).__name__}: {exc}")

    def _open(self, channel: BlockingChannel, epoch: int) -> None:
        del epoch
        channel.basic_qos(prefetch_count=1)
        self._consumer = None
        self._register(channel)

    def _register(self, channel: BlockingChannel) -> None:
        # A connection that opens after ``take`` was called registers by itself, and must not do so twice; nor once more
        # when the last consumer's message has come in this very moment.
        if self._consumer is None and self._wanted.is_set() and self._arrived.empty():
            self._consumer = channel.basic_consume(
                self._queue_name, self._on_message, arguments={"x-priority": self._priority()}
            )

    def _leave(self, channel: BlockingChannel) -> None:
        tag, self._consumer = self._consumer, None
        if tag is not None:
            # What is on its way to this consumer goes back to its place: pika sees to that.
            channel.basic_cancel(tag)

    def _on_message(
        self, channel: BlockingChannel, method: Basic.Deliver, properties: BasicProperties, body: bytes
    ) -> None:
        self._wanted.clear()
        self._arrived.put(delivery_of(method, properties, body, self._thread.epoch))
        self._leave(channel)


class PrefetchingConsumer(_Consumer):
    """A BatchConsumer."""

    def __init__(self, url: str, name: str, queue_name: str, prefetch: int) -> None:
        super().__init__(url, name, queue_name)
        self._prefetch = prefetch

    def take_batch(self, limit: int, timeout: float) -> list[Delivery]:
        """See BatchConsumer."""
        first = self._next_current(time.monotonic() + timeout)
        if first is None:
            return []
        batch = [first]
        while len(batch) < limit:
            delivery = self._next_current(time.monotonic())
            if delivery is None:
                break
            batch.append(delivery)
        # A reconnect between the first and the last leaves only the new connection's messages settleable.
        return [delivery for delivery in batch if delivery.epoch == self._thread.epoch]

    def _open(self, channel: BlockingChannel, epoch: int) -> None:
        def on_message(
            _channel: BlockingChannel, method: Basic.Deliver, properties: BasicProperties, body: bytes
        ) -> None:
            self._arrived.put(delivery_of(method, properties, body, epoch))

        channel.basic_qos(prefetch_count=self._prefetch)
        channel.basic_consume(self._queue_name, on_message)
