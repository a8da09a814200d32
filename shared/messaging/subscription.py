"""Listening to an exchange through a queue that lives as long as its connection; what is missed is lost.

For orders and news that are repeated, or found elsewhere as well. The queue is bounded and drops its oldest, so that a
listener that stalls costs the broker next to nothing. In a gevent process the thread is a greenlet; either way it alone
uses the connection.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.messaging.connection import ConnectionThread

if TYPE_CHECKING:
    from collections.abc import Callable

    from pika.adapters.blocking_connection import BlockingChannel
    from pika.spec import Basic, BasicProperties


@dataclass(frozen=True, slots=True, kw_only=True)
class Feed:
    """What to listen to. Queues are named ``<prefix>.<random>``: the prefix is the service's own, by its rights."""

    exchange: str
    prefix: str
    routing_key: str = "#"
    max_length: int = 256


class Subscription:
    """Hands each body to ``on_body`` in the connection's thread, which it must not hold up for more than seconds."""

    def __init__(self, url: str, name: str, feed: Feed, on_body: Callable[[bytes], None]) -> None:
        self._feed = feed
        self._on_body = on_body
        self._thread = ConnectionThread(url, name, self._open)

    def start(self) -> None:
        """Begin to connect, in the background and for as long as it takes."""
        self._thread.start()

    def stop(self) -> None:
        """Close the connection; the queue goes with it."""
        self._thread.stop()

    @property
    def connected(self) -> bool:
        """Whether it listens."""
        return self._thread.connected

    def _open(self, channel: BlockingChannel, _epoch: int) -> None:
        feed = self._feed
        # A name of its own each time: the broker may not yet have noticed that the last connection is gone.
        queue = f"{feed.prefix}.{secrets.token_hex(8)}"
        bounds = {"x-max-length": feed.max_length, "x-overflow": "drop-head"}
        channel.queue_declare(queue, exclusive=True, auto_delete=True, arguments=bounds)
        channel.queue_bind(queue, feed.exchange, feed.routing_key)
        channel.basic_consume(queue, self._on_message, auto_ack=True)

    def _on_message(
        self, _channel: BlockingChannel, _method: Basic.Deliver, _properties: BasicProperties, body: bytes
    ) -> None:
        self._on_body(body)
