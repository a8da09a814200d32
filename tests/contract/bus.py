"""What every message bus must do; run on the fake and on the real broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shared.domain.errors import UnroutableError
from shared.messaging.topology import EVENTS, REQUEUE, STATUS_EVENTS, STATUS_RETURNED, TASKS, work_queue
from tests.support.builders import MODEL, outbound

if TYPE_CHECKING:
    from shared.messaging.ports import BatchConsumer, Publisher, SingleConsumer

SECONDS = 10.0
WORK = work_queue(MODEL)


class Bus:
    """A publisher, and consumers by queue. ``late`` may be called once for each queue, and so may ``batch``."""

    publisher: Publisher
    # Seconds after which nothing more comes.
    pause = 0.5
    # Whether higher priorities come first.
    has_priorities = True

    def late(self, queue: str) -> SingleConsumer:
        raise NotImplementedError

    def batch(self, queue: str) -> BatchConsumer:
        raise NotImplementedError

    def ready(self, queue: str) -> int:
        """Messages that nobody holds."""
        raise NotImplementedError

    def break_connections(self) -> None:
        """Every connection is lost, and each consumer has a new one."""
        raise NotImplementedError


class BusContract:
    """Inherit and provide the ``bus`` fixture."""

    def publish(self, bus: Bus, *bodies: bytes, exchange: str = TASKS, priority: int | None = None) -> None:
        for body in bodies:
            bus.publisher.publish(outbound(exchange, MODEL, body, priority=priority), timeout=SECONDS)

    def test_a_message_arrives_as_it_was_sent(self, bus: Bus) -> None:
        message = outbound(TASKS, MODEL, b"one", priority=9, headers={"x-number": 2}, type="task")
        bus.publisher.publish(message, timeout=SECONDS)
        delivery = bus.late(WORK).take(SECONDS)
        assert delivery is not None
        assert (delivery.body, delivery.message_id, delivery.type) == (b"one", "one", "task")
        assert (delivery.priority, delivery.redelivered, delivery.routing_key) == (9, False, MODEL)
        assert delivery.headers["x-number"] == 2

    def test_an_acked_message_is_gone(self, bus: Bus) -> None:
        self.publish(bus, b"one")
        consumer = bus.late(WORK)
        delivery = consumer.take(SECONDS)
        assert delivery is not None
        assert consumer.ack(delivery)
        assert consumer.take(bus.pause) is None
        assert bus.ready(WORK) == 0

    def test_higher_priorities_come_first_and_equals_in_order(self, bus: Bus) -> None:
        self.publish(bus, b"low-1", b"low-2", priority=1)
        self.publish(bus, b"high-1", b"high-2", priority=9)
        consumer, taken = bus.late(WORK), []
        while (delivery := consumer.take(bus.pause)) is not None:
            taken.append(delivery.body)
            consumer.ack(delivery)
        high, low = [b"high-1", b"high-2"], [b"low-1", b"low-2"]
        assert taken == (high + low if bus.has_priorities else low + high)

    def test_a_rejected_message_goes_to_the_dead_letter_exchange(self, bus: Bus) -> None:
        self.publish(bus, b"broken")
        consumer = bus.late(WORK)
        delivery = consumer.take(SECONDS)
        assert delivery is not None
        assert consumer.reject(delivery)
        (returned,) = bus.batch(STATUS_RETURNED).take_batch(10, SECONDS)
        assert returned.body == b"broken"
        assert returned.routing_key == MODEL

    def test_a_requeued_message_comes_again_marked_and_in_its_place(self, bus: Bus) -> None:
        self.publish(bus, b"one", b"two")
        consumer = bus.late(WORK)
        delivery = consumer.take(SECONDS)
        assert delivery is not None
        assert consumer.requeue(delivery)
        again = consumer.take(SECONDS)
        assert again is not None
        assert (again.body, again.redelivered) == (b"one", True)

    def test_nothing_is_taken_in_advance(self, bus: Bus) -> None:
        self.publish(bus, b"one", b"two")
        consumer = bus.late(WORK)
        first = consumer.take(SECONDS)
        assert bus.ready(WORK) == 1
        second = consumer.take(SECONDS)  # although the first is not settled yet
        assert first is not None
        assert second is not None
        assert second.body == b"two"
        assert consumer.ack(second)
        assert consumer.ack(first)

    def test_a_message_that_no_queue_takes_is_an_error(self, bus: Bus) -> None:
        with pytest.raises(UnroutableError):
            bus.publisher.publish(outbound(TASKS, "no-such-model", b"x"), timeout=SECONDS)

    def test_both_ways_into_a_work_queue(self, bus: Bus) -> None:
        self.publish(bus, b"new")
        self.publish(bus, b"again", exchange=REQUEUE)
        consumer, taken = bus.late(WORK), []
        while (delivery := consumer.take(bus.pause)) is not None:
            taken.append(delivery.body)
            consumer.ack(delivery)
        assert taken == [b"new", b"again"]

    def test_a_batch_is_acked_as_a_whole(self, bus: Bus) -> None:
        for body in (b"1", b"2", b"3"):
            bus.publisher.publish(outbound(EVENTS, "queued.acme", body), timeout=SECONDS)
        consumer = bus.batch(STATUS_EVENTS)
        batch = consumer.take_batch(10, SECONDS)
        while len(batch) < 3:
            batch += consumer.take_batch(10, SECONDS)
        assert [delivery.body for delivery in batch] == [b"1", b"2", b"3"]
        assert consumer.ack(batch[-1], multiple=True)
        assert consumer.take_batch(10, bus.pause) == []
        assert bus.ready(STATUS_EVENTS) == 0

    def test_what_a_lost_connection_held_comes_again_and_its_old_tag_is_stale(self, bus: Bus) -> None:
        self.publish(bus, b"one")
        consumer = bus.late(WORK)
        held = consumer.take(SECONDS)
        assert held is not None
        bus.break_connections()
        again = consumer.take(SECONDS)
        assert again is not None
        assert (again.body, again.redelivered) == (b"one", True)
        assert not consumer.ack(held)
        assert consumer.ack(again)
        assert consumer.take(bus.pause) is None
