"""Hears what is said to every process of a kind: an exclusive queue of one's own on a fanout or topic exchange."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shared.logging import get_logger
from shared.messaging.connection import ConnectionThread

if TYPE_CHECKING:
    from collections.abc import Callable

    from pika.adapters.blocking_connection import BlockingChannel
    from pika.spec import Basic, BasicProperties

log = get_logger(__name__)

# Old news is of no use: a queue that nobody empties drops its head.
_MOST_WAITING: Final = 1000


class BroadcastListener:
    """Calls ``on_message`` with each body, in the connection's thread. What is said while it is away is not heard."""

    def __init__(self, url: str, name: str, exchange: str, on_message: Callable[[bytes], None]) -> None:
        self._queue = name
        self._exchange = exchange
        self._on_message = on_message
        self._thread = ConnectionThread(url, name, self._open)

    def start(self) -> None:
        """Begin to connect, in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Close the connection."""
        self._thread.stop()

    @property
    def connected(self) -> bool:
        """Whether it hears anything."""
        return self._thread.connected

    def _open(self, channel: BlockingChannel, epoch: int) -> None:
        # Exclusive queues of a lost connection may outlive it for a moment, so each connection has a name of its own.
        name = f"{self._queue}.{epoch}"
        channel.queue_declare(name, exclusive=True, auto_delete=True, arguments={"x-max-length": _MOST_WAITING})
        channel.queue_bind(name, self._exchange, routing_key="#")
        channel.basic_consume(name, self._heard, auto_ack=True)

    def _heard(
        self, _channel: BlockingChannel, _method: Basic.Deliver, _properties: BasicProperties, body: bytes
    ) -> None:
        self._on_message(body)
