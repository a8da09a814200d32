"""Confirmed, mandatory publishing from a threaded process, over a connection of its own.

Apart from the consuming connection, since an alarm makes the broker stop reading from publishers, and an ack behind a
blocked publish would wait with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pika.exceptions import AMQPError, NackError, UnroutableError

from shared.domain import errors
from shared.messaging.connection import ConnectionThread
from shared.messaging.levels import BrokerLevels
from shared.messaging.topology import QueueType
from shared.messaging.wire import properties_of, server_properties

if TYPE_CHECKING:
    from pika.adapters.blocking_connection import BlockingChannel

    from shared.messaging.ports import OutboundMessage


class ThreadedPublisher:
    """A Publisher for threaded processes; any thread may call it."""

    def __init__(self, url: str, name: str, queue_type: QueueType = QueueType.CLASSIC) -> None:
        self._levels = BrokerLevels(queue_type, name)
        self._thread = ConnectionThread(url, name, self._open)

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    def stop(self) -> None:
        """Close the connection."""
        self._thread.stop()

    @property
    def connected(self) -> bool:
        """Whether a publish could be tried now."""
        return self._thread.connected

    def wait_connected(self, timeout: float) -> bool:
        """Wait for the connection to open."""
        return self._thread.wait_connected(timeout)

    def publish(self, *messages: OutboundMessage, timeout: float) -> None:
        """See Publisher. Messages are confirmed one after the other, so an error leaves the later ones unsent."""
        for message in messages:
            try:
                self._thread.call(lambda channel, message=message: self._publish(channel, message), timeout)  # type: ignore[misc] # mypy cannot infer a lambda with a default
            except UnroutableError as exc:
                text = f"no queue takes {message.exchange}/{message.routing_key}"
                raise errors.UnroutableError(text) from exc
            except NackError as exc:
                text = f"the broker refused a message to {message.exchange}"
                raise errors.BrokerUnavailableError(text) from exc
            except AMQPError as exc:
                text = f"publishing to {message.exchange} broke: {type(exc).__name__}"
                raise errors.PublishUnknownError(text) from exc

    def _open(self, channel: BlockingChannel, _epoch: int) -> None:
        self._levels.meet(server_properties(channel))
        channel.confirm_delivery()

    def _publish(self, channel: BlockingChannel, message: OutboundMessage) -> None:
        properties = properties_of(message, self._levels.priority(message.priority))
        channel.basic_publish(
            message.exchange, message.routing_key, message.body, properties, mandatory=message.mandatory
        )
