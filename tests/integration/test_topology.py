from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest
from pika.exceptions import ChannelClosedByBroker

from shared.domain.settle import RETRY_DELAYS_SECONDS
from shared.messaging.consumer import LateConsumer
from shared.messaging.publisher import ThreadedPublisher
from shared.messaging.topology import (
    CONTROL,
    DEAD,
    EVENTS,
    REQUEUE,
    RETURNED,
    STATUS_EVENTS,
    STATUS_RETURNED,
    TASKS,
    TASKS_DEAD,
    WORKERS,
    retry_exchange,
    retry_queue,
    topology,
    work_queue,
)
from tests.support.builders import MODEL, outbound
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pika.adapters.blocking_connection import BlockingChannel

    from tests.support.rabbit import RabbitServer

SECONDS: Final = 10.0
WORK: Final = work_queue(MODEL)
ACCESS_REFUSED: Final = 403


@pytest.fixture
def publisher(rabbit: RabbitServer) -> Iterator[ThreadedPublisher]:
    publisher = ThreadedPublisher(rabbit.url("admin"), "test.publish")
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
    assert ours == {(e.name, e.type, True, False) for e in topology(rabbit.models).exchanges}


def test_the_broker_has_exactly_the_queues_of_the_topology(rabbit: RabbitServer) -> None:
    listed = rabbit.listing("queues", "name", "durable", "type")
    assert {(row["name"], row["durable"]) for row in listed} == {
        (queue.name, True) for queue in topology(rabbit.models).queues
    }


def test_every_queue_has_the_arguments_of_the_topology(rabbit: RabbitServer) -> None:
    # A passive declaration would not compare the arguments; a real one is refused where they differ.
    with rabbit.connect() as connection:
        channel = connection.channel()
        for queue in topology(rabbit.models).queues:
            channel.queue_declare(queue.name, durable=True, arguments=queue.arguments)


def test_the_broker_has_exactly_the_bindings_of_the_topology(rabbit: RabbitServer) -> None:
    listed = rabbit.listing("bindings", "source_name", "destination_name", "routing_key")
    # Every queue is also bound to the default exchange, whose name is empty.
    ours = {(row["source_name"], row["destination_name"], row["routing_key"]) for row in listed if row["source_name"]}
    assert ours == {(b.exchange, b.queue, b.routing_key) for b in topology(rabbit.models).bindings}


def test_work_queues_and_no_others_return_what_they_drop(rabbit: RabbitServer) -> None:
    listed = rabbit.listing("queues", "name", "policy")
    assert {row["name"] for row in listed if row["policy"] == "returned"} == {work_queue(m) for m in rabbit.models}


MAY_CONSUME: Final = {
    "gateway": (),
    "worker": (WORK,),
    "status": (STATUS_EVENTS, STATUS_RETURNED),
    "operator": (TASKS_DEAD,),
}
MAY_PUBLISH: Final = {
    "gateway": (TASKS, EVENTS),
    "worker": (REQUEUE, EVENTS, DEAD, WORKERS, *map(retry_exchange, RETRY_DELAYS_SECONDS)),
    "status": (REQUEUE, EVENTS, DEAD, CONTROL, *map(retry_exchange, RETRY_DELAYS_SECONDS)),
    "operator": (TASKS, EVENTS),
}
QUEUES: Final = (WORK, STATUS_EVENTS, STATUS_RETURNED, TASKS_DEAD, *map(retry_queue, RETRY_DELAYS_SECONDS))
EXCHANGES: Final = (
    TASKS,
    REQUEUE,
    EVENTS,
    CONTROL,
    RETURNED,
    DEAD,
    WORKERS,
    *map(retry_exchange, RETRY_DELAYS_SECONDS),
)


def _refused(error: ChannelClosedByBroker) -> bool:
    if error.reply_code != ACCESS_REFUSED:
        raise error
    return False


def _consumes(rabbit: RabbitServer, user: str, queue: str) -> bool:
    with rabbit.connect(user) as connection:
        try:
            connection.channel().basic_get(queue)
        except ChannelClosedByBroker as exc:
            return _refused(exc)
        return True


def _touch(channel: BlockingChannel, how: str) -> None:
    if how == "delete":
        channel.queue_delete(WORK)
    else:
        channel.queue_declare("tasks.of-my-own", durable=True)


def _publishes(rabbit: RabbitServer, user: str, exchange: str) -> bool:
    with rabbit.connect(user) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        try:
            channel.basic_publish(exchange, MODEL, b"{}")
        except ChannelClosedByBroker as exc:
            return _refused(exc)
        return True


@pytest.mark.parametrize("user", list(MAY_CONSUME))
def test_a_service_may_consume_its_own_queues_and_no_others(rabbit: RabbitServer, user: str) -> None:
    assert {queue for queue in QUEUES if _consumes(rabbit, user, queue)} == set(MAY_CONSUME[user])


@pytest.mark.parametrize("user", list(MAY_PUBLISH))
def test_a_service_may_publish_where_it_must_and_nowhere_else(rabbit: RabbitServer, user: str) -> None:
    assert {exchange for exchange in EXCHANGES if _publishes(rabbit, user, exchange)} == set(MAY_PUBLISH[user])


@pytest.mark.parametrize("user", list(MAY_PUBLISH))
def test_a_service_may_neither_declare_nor_delete_what_is_durable(rabbit: RabbitServer, user: str) -> None:
    for refused in ("delete", "declare"):
        with rabbit.connect(user) as connection:
            channel = connection.channel()
            with pytest.raises(ChannelClosedByBroker) as failure:
                _touch(channel, refused)
            assert failure.value.reply_code == ACCESS_REFUSED


def _listens(rabbit: RabbitServer, queue: str, exchange: str) -> bool:
    with rabbit.connect("gateway") as connection:
        channel = connection.channel()
        try:
            channel.queue_declare(queue, exclusive=True, auto_delete=True)
            channel.queue_bind(queue, exchange, "#")
        except ChannelClosedByBroker as exc:
            return _refused(exc)
        return True


def test_a_gateway_may_listen_to_workers_through_a_queue_of_its_own_and_to_nothing_else(rabbit: RabbitServer) -> None:
    assert {exchange for exchange in EXCHANGES if _listens(rabbit, "gateway.test", exchange)} == {WORKERS}
    assert not _listens(rabbit, "worker.test", WORKERS)


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
    message = outbound(retry_exchange(5), MODEL, b"again", priority=7, headers={"x-atelier-attempt": 2})
    publisher.publish(message, timeout=SECONDS)
    assert rabbit.depth(retry_queue(5)) == 1
    assert rabbit.depth(WORK) == 0
    delivery = consumer.take(20)
    assert delivery is not None
    assert (delivery.body, delivery.exchange, delivery.routing_key) == (b"again", REQUEUE, MODEL)
    assert (delivery.priority, delivery.redelivered, delivery.headers["x-atelier-attempt"]) == (7, False, 2)
    assert consumer.ack(delivery)
    assert rabbit.depth(retry_queue(5)) == 0
