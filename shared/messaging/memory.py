"""A broker in memory that obeys the same contract tests as the real one; for unit tests and nothing else."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from shared.domain.errors import BrokerUnavailableError, UnroutableError
from shared.messaging.ports import Delivery, OutboundMessage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shared.messaging.topology import Topology


@dataclass(slots=True)
class _Entry:
    message: OutboundMessage
    order: int
    redelivered: bool = False


class MemoryBroker:
    """Exchanges, bindings and priority queues. Nothing expires by itself: tests move time by hand with ``expire``."""

    def __init__(self, topology: Topology) -> None:
        self._types = {exchange.name: exchange.type for exchange in topology.exchanges}
        self._bindings = topology.bindings
        self._arguments = {queue.name: queue.arguments for queue in topology.queues}
        self._policies = topology.policies
        self._queues: dict[str, list[_Entry]] = {queue.name: [] for queue in topology.queues}
        self._order = 0
        self._changed = threading.Condition()
        self.available = True

    def publish(self, *messages: OutboundMessage, timeout: float) -> None:
        """See Publisher."""
        del timeout
        for message in messages:
            if not self.available:
                text = "the broker is switched off"
                raise BrokerUnavailableError(text)
            if not self._route(message) and message.mandatory:
                text = f"no queue takes {message.exchange}/{message.routing_key}"
                raise UnroutableError(text)

    def depth(self, queue: str) -> int:
        """How many messages wait in a queue."""
        return len(self._queues[queue])

    def messages(self, queue: str) -> list[OutboundMessage]:
        """What waits in a queue, in the order of delivery."""
        return [entry.message for entry in self._sorted(queue)]

    def expire(self, queue: str) -> None:
        """Let everything in a queue expire, to where its arguments or policy send it."""
        entries, self._queues[queue] = self._sorted(queue), []
        for entry in entries:
            self.dead_letter(queue, entry.message)

    def dead_letter(self, queue: str, message: OutboundMessage) -> None:
        """Send a message where the queue's dead letters go."""
        target = self._dead_letter_exchange(queue)
        if target is not None:
            self._route(replace(message, exchange=target, expiration_ms=None))

    def pop(self, queue: str, timeout: float) -> _Entry | None:
        """Take the next entry of a queue."""
        deadline = time.monotonic() + timeout
        with self._changed:
            while not self._queues[queue]:
                if not self._changed.wait(deadline - time.monotonic()):
                    return None
            entry = self._sorted(queue)[0]
            self._queues[queue].remove(entry)
            return entry

    def put_back(self, queue: str, entry: _Entry) -> None:
        """Return an entry to its place."""
        entry.redelivered = True
        with self._changed:
            self._queues[queue].append(entry)
            self._changed.notify_all()

    def _route(self, message: OutboundMessage) -> bool:
        kind = self._types[message.exchange]
        targets = {
            binding.queue
            for binding in self._bindings
            if binding.exchange == message.exchange
            and (kind == "fanout" or binding.routing_key in ("#", message.routing_key))
        }
        with self._changed:
            for queue in targets:
                self._order += 1
                self._queues[queue].append(_Entry(message, self._order))
            self._changed.notify_all()
        return bool(targets)

    def _sorted(self, queue: str) -> list[_Entry]:
        levels = "x-max-priority" in self._arguments[queue]
        return sorted(self._queues[queue], key=lambda e: (-(e.message.priority or 0) if levels else 0, e.order))

    def _dead_letter_exchange(self, queue: str) -> str | None:
        exchange = self._arguments[queue].get("x-dead-letter-exchange")
        if exchange is None and "x-max-priority" in self._arguments[queue]:
            exchange = self._policies[0].definition["dead-letter-exchange"]
        return None if exchange is None else str(exchange)


class MemoryConsumer:
    """A SingleConsumer and BatchConsumer of one queue of a MemoryBroker."""

    def __init__(self, broker: MemoryBroker, queue: str) -> None:
        self._broker = broker
        self._queue = queue
        self._unsettled: dict[int, _Entry] = {}
        self._next_tag = 1
        self.epoch = 1

    def take(self, timeout: float) -> Delivery | None:
        """See SingleConsumer."""
        entry = self._broker.pop(self._queue, timeout)
        if entry is None:
            return None
        tag, self._next_tag = self._next_tag, self._next_tag + 1
        self._unsettled[tag] = entry
        return _delivery(entry, tag, self.epoch)

    def take_batch(self, limit: int, timeout: float) -> list[Delivery]:
        """See BatchConsumer."""
        batch = []
        delivery = self.take(timeout)
        while delivery is not None:
            batch.append(delivery)
            delivery = self.take(0) if len(batch) < limit else None
        return batch

    def ack(self, delivery: Delivery, *, multiple: bool = False) -> bool:
        """See Settler."""
        if delivery.epoch != self.epoch:
            return False
        tags = [tag for tag in self._unsettled if tag <= delivery.tag] if multiple else [delivery.tag]
        for tag in tags:
            del self._unsettled[tag]
        return True

    def reject(self, delivery: Delivery) -> bool:
        """See Settler."""
        if delivery.epoch != self.epoch:
            return False
        self._broker.dead_letter(self._queue, self._unsettled.pop(delivery.tag).message)
        return True

    def requeue(self, delivery: Delivery) -> bool:
        """See Settler."""
        if delivery.epoch != self.epoch:
            return False
        self._broker.put_back(self._queue, self._unsettled.pop(delivery.tag))
        return True

    def disconnect(self) -> None:
        """As if the connection had broken: what is unsettled goes back and is redelivered, older tags are stale."""
        self.epoch += 1
        entries, self._unsettled = self._unsettled, {}
        for entry in entries.values():
            self._broker.put_back(self._queue, entry)


class MemoryLook:
    """A QueueLook."""

    def __init__(self, broker: MemoryBroker, queue: str) -> None:
        self._broker = broker
        self._queue = queue
        self._check()
        self._left = broker.depth(queue)
        self._held: dict[int, _Entry] = {}
        self._tag = 0

    def page(self, limit: int) -> list[Delivery]:
        """See QueueLook."""
        self._check()
        page: list[Delivery] = []
        while self._left and len(page) < limit and (entry := self._broker.pop(self._queue, 0)) is not None:
            self._tag += 1
            self._left -= 1
            self._held[self._tag] = entry
            page.append(_delivery(entry, self._tag, 1))
        return page

    def take_out(self, delivery: Delivery) -> None:
        """See QueueLook."""
        self._check()
        del self._held[delivery.tag]

    def end(self) -> None:
        """Put back what was not taken out."""
        for entry in self._held.values():
            self._broker.put_back(self._queue, entry)

    def _check(self) -> None:
        if not self._broker.available:
            text = "the broker is switched off"
            raise BrokerUnavailableError(text)


class MemoryBrowser:
    """A QueueBrowser of one queue of a MemoryBroker."""

    def __init__(self, broker: MemoryBroker, queue: str) -> None:
        self._broker = broker
        self._queue = queue

    @contextmanager
    def look(self) -> Iterator[MemoryLook]:
        """See QueueBrowser."""
        look = MemoryLook(self._broker, self._queue)
        try:
            yield look
        finally:
            look.end()


def _delivery(entry: _Entry, tag: int, epoch: int) -> Delivery:
    message = entry.message
    return Delivery(
        body=message.body,
        exchange=message.exchange,
        routing_key=message.routing_key,
        redelivered=entry.redelivered,
        headers=dict(message.headers),
        message_id=message.message_id,
        type=message.type,
        priority=message.priority or 0,
        tag=tag,
        epoch=epoch,
    )
