from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import pytest

from shared.messaging.consumer import LateConsumer
from shared.messaging.publisher import ThreadedPublisher
from shared.messaging.topology import (
    DELIVERY_LIMIT,
    REQUEUE,
    STATUS_RETURNED,
    TASKS,
    QueueType,
    retry_exchange,
    retry_queue,
    topology,
    work_queue,
)
from tests.support.builders import MODEL, outbound
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.rabbit import RabbitServer

SECONDS: Final = 10.0
WORK: Final = work_queue(MODEL)


@pytest.fixture
def rabbit(each_rabbit: RabbitServer) -> RabbitServer:
    return each_rabbit


@pytest.fixture
def publisher(rabbit: RabbitServer) -> Iterator[ThreadedPublisher]:
    publisher = ThreadedPublisher(rabbit.url("admin"), "test.publish", rabbit.queue_type)
    publisher.start()
    yield publisher
    publisher.stop()


@pytest.fixture
def consumer(rabbit: RabbitServer) -> Iterator[LateConsumer]:
    consumer = LateConsumer(rabbit.url("admin"), "test.late", WORK)
    consumer.start()
    yield consumer
    consumer.stop()


def test_the_broker_has_exactly_the_exchanges_of_the_topology(rabbit: RabbitServer) -> None:
    listed = rabbit.listing("exchanges", "name", "type", "durable", "auto_delete")
    ours = {
        (row["name"], row["type"], row["durable"], row["auto_delete"])
        for row in listed
        if row["name"] and not row["name"].startswith("amq.")
    }
    assert ours == {(e.name, e.type, True, False) for e in topology(rabbit.models, rabbit.queue_type).exchanges}


def test_the_broker_has_exactly_the_queues_of_the_topology(rabbit: RabbitServer) -> None:
    listed = rabbit.listing("queues", "name", "durable", "type")
    assert {(row["name"], row["durable"], row["type"]) for row in listed} == {
        (queue.name, True, rabbit.queue_type) for queue in topology(rabbit.models, rabbit.queue_type).queues
    }


def test_every_queue_has_the_arguments_of_the_topology(rabbit: RabbitServer) -> None:
    # A passive declaration would not compare the arguments; a real one is refused where they differ.
    with rabbit.connect() as connection:
        channel = connection.channel()
        for queue in topology(rabbit.models, rabbit.queue_type).queues:
            channel.queue_declare(queue.name, durable=True, arguments=queue.arguments)


def test_the_broker_has_exactly_the_bindings_of_the_topology(rabbit: RabbitServer) -> None:
    listed = rabbit.listing("bindings", "source_name", "destination_name", "routing_key")
    # Every queue is also bound to the default exchange, whose name is empty.
    ours = {(row["source_name"], row["destination_name"], row["routing_key"]) for row in listed if row["source_name"]}
    assert ours == {(b.exchange, b.queue, b.routing_key) for b in topology(rabbit.models, rabbit.queue_type).bindings}


def test_work_queues_and_no_others_return_what_they_drop(rabbit: RabbitServer) -> None:
    listed = rabbit.listing("queues", "name", "policy")
    assert {row["name"] for row in listed if row["policy"] == "returned"} == {work_queue(m) for m in rabbit.models}


def test_every_quorum_queue_delivers_as_often_as_it_must(rabbit: RabbitServer) -> None:
    definitions = {row["name"]: json.loads(row["definition"]) for row in rabbit.listing("policies")}
    limits = {
        definitions[row["policy"]].get("delivery-limit") if row["policy"] else None
        for row in rabbit.listing("queues", "policy")
    }
    assert limits == {DELIVERY_LIMIT if rabbit.queue_type is QueueType.QUORUM else None}


def test_a_task_that_comes_back_often_is_kept(
    rabbit: RabbitServer, publisher: ThreadedPublisher, consumer: LateConsumer
) -> None:
    """RabbitMQ 4 drops what came back 20 times from a quorum queue, unless told otherwise."""
    publisher.publish(outbound(TASKS, MODEL, b"poison"), timeout=SECONDS)
    for _ in range(25):
        delivery = consumer.take(SECONDS)
        assert delivery is not None
        assert consumer.requeue(delivery)
    until(lambda: rabbit.depth(WORK) == 1, SECONDS, "the task to be back")
    assert rabbit.depth(STATUS_RETURNED) == 0


def test_an_expired_task_lands_with_the_returned_ones(rabbit: RabbitServer, publisher: ThreadedPublisher) -> None:
    publisher.publish(outbound(TASKS, MODEL, b"late", expiration_ms=1), timeout=SECONDS)
    until(lambda: rabbit.depth(STATUS_RETURNED) == 1, SECONDS, "the expired task")
    assert rabbit.depth(WORK) == 0


def test_a_rejected_task_lands_with_the_returned_ones(
    rabbit: RabbitServer, publisher: ThreadedPublisher, consumer: LateConsumer
) -> None:
    publisher.publish(outbound(TASKS, MODEL, b"broken"), timeout=SECONDS)
    delivery = consumer.take(SECONDS)
    assert delivery is not None
    assert consumer.reject(delivery)
    until(lambda: rabbit.depth(STATUS_RETURNED) == 1, SECONDS, "the rejected task")


def test_a_delayed_task_comes_back_with_its_key_and_priority(
    rabbit: RabbitServer, publisher: ThreadedPublisher, consumer: LateConsumer
) -> None:
    message = outbound(retry_exchange(5), MODEL, b"again", priority=9, headers={"x-atelier-attempt": 2})
    publisher.publish(message, timeout=SECONDS)
    assert rabbit.depth(retry_queue(5)) == 1
    assert rabbit.depth(WORK) == 0
    delivery = consumer.take(20)
    assert delivery is not None
    assert (delivery.body, delivery.exchange, delivery.routing_key) == (b"again", REQUEUE, MODEL)
    assert (delivery.priority, delivery.redelivered, delivery.headers["x-atelier-attempt"]) == (9, False, 2)
    assert consumer.ack(delivery)
    assert rabbit.depth(retry_queue(5)) == 0
