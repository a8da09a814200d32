"""What services ask of a message broker. Over pika: publisher, consumer, gevent_publisher; for tests: memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundMessage:
    """A persistent message. ``mandatory``: a message that no queue takes is an error and not silence."""

    exchange: str
    routing_key: str
    body: bytes
    message_id: str
    type: str
    priority: int | None = None
    expiration_ms: int | None = None
    headers: Mapping[str, str | int] = field(default_factory=dict)
    mandatory: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A message that was handed to us and waits to be settled. ``tag`` and ``epoch`` are the adapter's own."""

    body: bytes
    exchange: str
    routing_key: str
    redelivered: bool
    headers: Mapping[str, object]
    message_id: str | None
    type: str | None
    priority: int
    tag: int
    epoch: int


class Publisher(Protocol):
    """Publishes under confirms."""

    def publish(self, *messages: OutboundMessage, timeout: float) -> None:
        """Return once the broker has taken every message.

        Raises BrokerUnavailableError (nothing was taken for certain), UnroutableError, or PublishUnknownError (no
        answer within ``timeout`` seconds, or the connection broke: some may have been taken).
        """
        ...


class Settler(Protocol):
    """Settles deliveries. Each returns False when the delivery's connection is gone: the broker redelivers it then."""

    def ack(self, delivery: Delivery, *, multiple: bool = False) -> bool:
        """Done with it (``multiple``: and with every earlier one of the same consumer)."""
        ...

    def reject(self, delivery: Delivery) -> bool:
        """Send it to the queue's dead-letter exchange."""
        ...

    def requeue(self, delivery: Delivery) -> bool:
        """Put it back to its place in the queue."""
        ...


class SingleConsumer(Settler, Protocol):
    """Takes one message at a time, and holds none in advance."""

    def take(self, timeout: float) -> Delivery | None:
        """The next message, or None after ``timeout`` seconds. Until the next call nothing more is taken."""
        ...


class BatchConsumer(Settler, Protocol):
    """Takes many messages at a time."""

    def take_batch(self, limit: int, timeout: float) -> list[Delivery]:
        """At least one message unless ``timeout`` seconds pass without any, at most ``limit``, in order."""
        ...


class QueueLook(Protocol):
    """A look into a queue, from its head to what was its tail when the look began.

    Meanwhile nobody else sees what has been looked at. Methods raise BrokerError when the connection is gone: what was
    not taken out is back in the queue then.
    """

    def page(self, limit: int) -> list[Delivery]:
        """The next messages, at most ``limit``, in order; none at the end. They stay in the queue."""
        ...

    def take_out(self, delivery: Delivery) -> None:
        """Remove a message that this look has shown. When this returns the broker knows."""
        ...


class QueueBrowser(Protocol):
    """Looks into a queue without losing or reordering anything."""

    def look(self) -> AbstractContextManager[QueueLook]:
        """Begin to look; at the end of the ``with`` block all that was not taken out is back in its place.

        Raises BrokerError. Messages that were looked at are marked as redelivered.
        """
        ...
