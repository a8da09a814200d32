"""The same contract on a real RabbitMQ, and what only a real broker can do: die and come back."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, TypeVar

import pytest

from shared.domain.errors import BrokerError
from shared.messaging.consumer import LateConsumer, PrefetchingConsumer
from shared.messaging.levels import Levels, levels_of
from shared.messaging.publisher import ThreadedPublisher
from shared.messaging.topology import TASKS
from tests.contract.bus import SECONDS, WORK, Bus, BusContract
from tests.integration.conftest import BROKERS_APART
from tests.support.builders import MODEL, outbound
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.rabbit import RabbitServer

C = TypeVar("C", LateConsumer, PrefetchingConsumer)


class RabbitBus(Bus):
    def __init__(self, server: RabbitServer) -> None:
        self.server = server
        self.publisher = self._publisher = ThreadedPublisher(server.url("admin"), "test.publish", server.queue_type)
        self._publisher.start()
        until(lambda: self._publisher.connected, SECONDS, "the publisher to connect")
        self.has_priorities = levels_of(server.queue_type, server.version()) is not Levels.NONE
        self._consumers: list[LateConsumer | PrefetchingConsumer] = []

    def late(self, queue: str) -> LateConsumer:
        return self._started(LateConsumer(self.server.url("admin"), "test.late", queue))

    def batch(self, queue: str) -> PrefetchingConsumer:
        return self._started(PrefetchingConsumer(self.server.url("admin"), "test.batch", queue, 100))

    def ready(self, queue: str) -> int:
        return self.server.depth(queue)

    def break_connections(self) -> None:
        before = [each._thread.epoch for each in self._consumers]
        self.server.restart()
        until(lambda: self._back_since(before), 60, "every consumer to be back on a new connection")

    def _back_since(self, before: list[int]) -> bool:
        return all(
            each.connected and each._thread.epoch > epoch for each, epoch in zip(self._consumers, before, strict=True)
        )

    def stop(self) -> None:
        for each in self._consumers:
            each.stop()
        self._publisher.stop()

    def _started(self, consumer: C) -> C:
        consumer.start()
        self._consumers.append(consumer)
        until(lambda: consumer.connected, SECONDS, "the consumer to connect")
        return consumer


pytestmark = pytest.mark.parametrize("each_rabbit_server", BROKERS_APART, indirect=True, ids="-".join)


@pytest.fixture
def rabbit(each_rabbit: RabbitServer) -> RabbitServer:
    return each_rabbit


@pytest.fixture
def bus(rabbit: RabbitServer) -> Iterator[RabbitBus]:
    bus = RabbitBus(rabbit)
    yield bus
    bus.stop()


class TestRabbitBus(BusContract):
    """See BusContract."""


def test_a_killed_broker_gives_back_what_was_confirmed(bus: RabbitBus) -> None:
    consumer = bus.late(WORK)
    for number in range(20):
        bus.publisher.publish(outbound(TASKS, MODEL, str(number).encode()), timeout=SECONDS)
    held = consumer.take(SECONDS)
    assert held is not None
    bus.server.restart()
    taken: set[bytes] = set()
    while len(taken) < 20:
        delivery = until(lambda: consumer.take(1.0), 60, "the next message")
        assert delivery is not None
        taken.add(delivery.body)
        consumer.ack(delivery)
    assert taken == {str(number).encode() for number in range(20)}
    bus.publisher.publish(outbound(TASKS, MODEL, b"after"), timeout=30)
    assert not consumer.ack(held)


def test_many_threads_publish_and_every_message_is_there(bus: RabbitBus) -> None:
    failures: list[BrokerError] = []

    def publish(worker: int) -> None:
        for number in range(50):
            try:
                bus.publisher.publish(outbound(TASKS, MODEL, f"{worker}-{number}".encode()), timeout=SECONDS)
            except BrokerError as exc:
                failures.append(exc)

    threads = [threading.Thread(target=publish, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert bus.ready(WORK) == 400


def test_heartbeats_go_on_while_a_task_is_held(rabbit: RabbitServer) -> None:
    consumer = LateConsumer(rabbit.url("admin", heartbeat=1), "test.heartbeat", WORK)
    consumer.start()
    publisher = ThreadedPublisher(rabbit.url("admin"), "test.publish")
    publisher.start()
    publisher.publish(outbound(TASKS, MODEL, b"long"), timeout=SECONDS)
    held = consumer.take(SECONDS)
    assert held is not None
    threading.Event().wait(5)  # several heartbeats long, nobody touches the connection
    assert consumer.ack(held)
    assert rabbit.depth(WORK) == 0
    consumer.stop()
    publisher.stop()
