"""Connections that are closed, brokers that are away, and callers that do not notice more than they must."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import pytest

from shared.domain.errors import BrokerError, BrokerUnavailableError
from shared.messaging.consumer import LateConsumer, PrefetchingConsumer
from shared.messaging.publisher import ThreadedPublisher
from shared.messaging.subscription import Feed, Subscription
from shared.messaging.topology import CONTROL, RETURNED, STATUS_RETURNED, TASKS, work_queue
from tests.support.builders import MODEL, outbound
from tests.support.ports import LOOPBACK, free_port
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future

    from pika.adapters.blocking_connection import BlockingChannel

    from shared.messaging.ports import Delivery
    from tests.support.rabbit import RabbitServer

SECONDS: Final = 10.0
WORK: Final = work_queue(MODEL)


@pytest.fixture
def publisher(rabbit: RabbitServer) -> Iterator[ThreadedPublisher]:
    publisher = ThreadedPublisher(rabbit.url("gateway"), "test.publish")
    publisher.start()
    assert publisher.wait_connected(SECONDS)
    yield publisher
    publisher.stop()


@pytest.fixture
def consumer(rabbit: RabbitServer) -> Iterator[LateConsumer]:
    consumer = LateConsumer(rabbit.url("worker", heartbeat=1), "test.late", WORK)
    consumer.start()
    until(lambda: consumer.connected, SECONDS, "the consumer to connect")
    yield consumer
    consumer.stop()


def send(publisher: ThreadedPublisher, *bodies: bytes) -> None:
    for body in bodies:
        publisher.publish(outbound(TASKS, MODEL, body), timeout=SECONDS)


def consumers(rabbit: RabbitServer) -> int:
    with rabbit.connect() as connection:
        return int(connection.channel().queue_declare(WORK, passive=True).method.consumer_count)


def test_a_delivery_held_while_the_broker_closes_connections_comes_again(
    rabbit: RabbitServer, publisher: ThreadedPublisher, consumer: LateConsumer
) -> None:
    send(publisher, b"one")
    held = consumer.take(SECONDS)
    assert held is not None
    rabbit.close_connections()
    again = until(lambda: consumer.take(1.0), 30, "the message to come again")
    assert again is not None
    assert (again.body, again.redelivered) == (b"one", True)
    assert not consumer.ack(held)
    assert not consumer.reject(held)
    assert not consumer.requeue(held)
    assert consumer.ack(again)
    assert rabbit.depth(WORK) == 0


def test_a_consumer_that_stops_gives_back_what_it_holds(
    rabbit: RabbitServer, publisher: ThreadedPublisher, consumer: LateConsumer
) -> None:
    send(publisher, b"one")
    leaving = LateConsumer(rabbit.url("worker"), "test.leaving", WORK)
    leaving.start()
    held = leaving.take(SECONDS)
    assert held is not None
    leaving.stop()
    again = consumer.take(SECONDS)
    assert again is not None
    assert (again.body, again.redelivered) == (b"one", True)
    assert consumer.ack(again)


def test_a_take_that_meets_a_reconnect_consumes_once(
    rabbit: RabbitServer, publisher: ThreadedPublisher, consumer: LateConsumer
) -> None:
    taking: list[Future[Delivery | None]] = []
    opened = consumer._thread._on_channel
    assert opened is not None

    def meet(channel: BlockingChannel, epoch: int) -> None:
        # The worst moment: the new connection is counted already and has not yet looked whether somebody waits.
        if not taking:
            taking.append(pool.submit(consumer.take, 30))
            until(consumer._wanted.is_set, SECONDS, "the take to begin")
        opened(channel, epoch)

    with ThreadPoolExecutor(1) as pool:
        consumer._thread._on_channel = meet
        rabbit.close_connections()
        until(lambda: taking and consumer.connected, 30, "the consumer to be back")
        until(lambda: not consumer._thread._waiting, SECONDS, "the take to have asked for its consumer")
        assert consumers(rabbit) == 1
        until(lambda: _sent(publisher, b"one"), 30, "a publish after the reconnect")
        first = taking[0].result(30)
    assert first is not None
    send(publisher, b"two")
    assert consumers(rabbit) == 0
    assert rabbit.depth(WORK) >= 1
    assert consumer.ack(first)


def test_nothing_is_taken_while_nobody_waits(
    rabbit: RabbitServer, publisher: ThreadedPublisher, consumer: LateConsumer
) -> None:
    assert consumer.take(0.2) is None
    send(publisher, b"one")
    assert consumers(rabbit) == 0
    assert rabbit.depth(WORK) == 1
    delivery = consumer.take(SECONDS)
    assert delivery is not None
    assert consumer.ack(delivery)


def test_a_queue_that_is_deleted_and_made_again_is_served_again(rabbit: RabbitServer) -> None:
    consumer = PrefetchingConsumer(rabbit.url("status"), "test.batch", STATUS_RETURNED, 10)
    consumer.start()
    until(lambda: consumer.connected, SECONDS, "the consumer to connect")
    with rabbit.connect() as connection:
        channel = connection.channel()
        channel.queue_delete(STATUS_RETURNED)
        channel.queue_declare(STATUS_RETURNED, durable=True)
        channel.queue_bind(STATUS_RETURNED, RETURNED, "")
        channel.basic_publish(RETURNED, "", b"one")
    (delivery,) = until(lambda: consumer.take_batch(1, 1.0), 30, "the message")
    assert consumer.ack(delivery)
    consumer.stop()


def test_a_mistake_in_what_is_called_back_costs_a_connection_and_not_all_further_ones(rabbit: RabbitServer) -> None:
    heard: list[bytes] = []

    def hear(body: bytes) -> None:
        heard.append(body)
        if len(heard) == 1:
            raise ZeroDivisionError

    feed = Feed(exchange=CONTROL, prefix="worker.test.control")
    subscription = Subscription(rabbit.url("worker"), "test.control", feed, hear)
    subscription.start()
    until(lambda: subscription.connected, SECONDS, "the subscription")
    status = ThreadedPublisher(rabbit.url("status"), "test.status")
    status.start()

    def told() -> bool:
        status.publish(replace(outbound(CONTROL, "", b"order"), mandatory=False), timeout=SECONDS)
        return len(heard) >= 2

    until(told, SECONDS, "a second order to be heard")
    subscription.stop()
    status.stop()


def _sent(publisher: ThreadedPublisher, body: bytes) -> bool:
    try:
        send(publisher, body)
    except BrokerError:
        return False
    return True


def test_many_threads_publish_through_a_broker_s_death_and_nothing_confirmed_is_lost(
    rabbit: RabbitServer, publisher: ThreadedPublisher
) -> None:
    broken = threading.Event()

    def publish(worker: int) -> set[bytes]:
        confirmed: set[bytes] = set()
        while len(confirmed) < 125 or not broken.is_set():
            body = f"{worker}-{len(confirmed)}".encode()
            if _sent(publisher, body):
                confirmed.add(body)
            else:
                broken.set()
        return confirmed

    with ThreadPoolExecutor(8) as pool:
        sending = [pool.submit(publish, worker) for worker in range(8)]
        rabbit.restart()
        confirmed = set().union(*(each.result(60) for each in sending))
    arrived = set()
    with rabbit.connect() as connection:
        channel = connection.channel()
        while (got := channel.basic_get(WORK, auto_ack=True))[0] is not None:
            arrived.add(got[2])
    assert len(confirmed) >= 1000
    assert arrived == confirmed


def test_heartbeats_go_on_while_python_computes(
    rabbit: RabbitServer, publisher: ThreadedPublisher, consumer: LateConsumer
) -> None:
    send(publisher, b"long")
    held = consumer.take(SECONDS)
    assert held is not None
    end = time.monotonic() + 5  # the broker gives a connection up after two silent heartbeats of 1 s
    while time.monotonic() < end:
        sum(range(10_000))
    assert consumer.ack(held)
    assert rabbit.depth(WORK) == 0


def test_a_publish_while_the_broker_is_away_is_refused_and_works_when_it_is_back(
    rabbit: RabbitServer, publisher: ThreadedPublisher
) -> None:
    rabbit.kill()
    try:
        until(lambda: not publisher.connected, SECONDS, "the publisher to notice")
        with pytest.raises(BrokerUnavailableError):
            publisher.publish(outbound(TASKS, MODEL, b"early"), timeout=0.2)
    finally:
        rabbit.start()
    assert publisher.wait_connected(30)
    send(publisher, b"late")
    assert rabbit.depth(WORK) == 1


def test_a_consumer_without_a_broker_waits_and_can_be_stopped() -> None:
    consumer = LateConsumer(f"amqp://worker:x@{LOOPBACK}:{free_port()}/atelier", "test.nobody", WORK)
    consumer.start()
    assert consumer.take(0.3) is None
    assert not consumer.connected
    consumer.stop()
    assert not consumer._thread._thread.is_alive()


def test_a_mistake_in_a_call_is_the_callers_and_leaves_the_connection_alone(publisher: ThreadedPublisher) -> None:
    def mistaken(_channel: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        publisher._thread.call(mistaken, 3)
    assert publisher.connected
    send(publisher, b"afterwards")
