"""A broker of several nodes, as its clients see it: two ways to one broker, of which one breaks or falls silent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from shared.messaging.consumer import LateConsumer
from shared.messaging.publisher import ThreadedPublisher
from shared.messaging.topology import TASKS, work_queue
from tests.integration.test_gateway_publisher import LOST, Process
from tests.support.builders import MODEL, outbound
from tests.support.ports import LOOPBACK
from tests.support.proxy import TcpProxy
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.rabbit import RabbitServer

SECONDS: Final = 10.0


class Ways:
    """Two nodes; the broker behind both is the same."""

    def __init__(self, rabbit: RabbitServer) -> None:
        self._rabbit = rabbit
        self.first, self.second = TcpProxy(rabbit.port), TcpProxy(rabbit.port)

    def url(self, user: str) -> str:
        hosts = ",".join(f"{LOOPBACK}:{proxy.port}" for proxy in (self.first, self.second))
        return self._rabbit.url(user).replace(f"{LOOPBACK}:{self._rabbit.port}", hosts)

    def close(self) -> None:
        self.first.close()
        self.second.close()


@pytest.fixture
def ways(rabbit: RabbitServer) -> Iterator[Ways]:
    ways = Ways(rabbit)
    yield ways
    ways.close()


def test_a_publisher_and_a_consumer_go_where_somebody_answers(ways: Ways) -> None:
    ways.first.refuse()
    publisher = ThreadedPublisher(ways.url("gateway"), "test.publish")
    consumer = LateConsumer(ways.url("worker"), "test.late", work_queue(MODEL))
    for part in (publisher, consumer):
        part.start()
    publisher.publish(outbound(TASKS, MODEL, b"one"), timeout=SECONDS)
    held = consumer.take(SECONDS)
    assert held is not None
    ways.first.refuse(refuse=False)
    ways.second.refuse()
    again = until(lambda: consumer.take(1.0), 30, "the message to come again by the other node")
    assert again is not None
    assert (again.body, again.redelivered) == (b"one", True)
    assert consumer.ack(again)
    until(lambda: publisher.connected, 30, "the publisher to be there as well")
    publisher.publish(outbound(TASKS, MODEL, b"two"), timeout=SECONDS)
    for part in (publisher, consumer):
        part.stop()


def test_a_gateway_leaves_a_node_that_answers_nothing(ways: Ways, tmp_path: Path) -> None:
    ways.first.refuse()
    publisher = Process(ways.url("gateway"), tmp_path / "publisher.log")
    try:
        publisher.until_ready()
        ways.first.refuse(refuse=False)
        ways.second.hold()
        # Long before these would time out, and before heartbeats tell.
        answer = publisher.publish(count=5)
        assert answer["outcomes"] == {"PublishUnknownError": 5}
        assert answer["reasons"] == [LOST]
        publisher.until_ready()
        assert publisher.publish(count=5)["outcomes"] == {"ok": 5}
    finally:
        publisher.close()


def test_a_gateway_that_has_nowhere_else_to_go_stays(rabbit: RabbitServer, tmp_path: Path) -> None:
    proxy = TcpProxy(rabbit.port)
    url = rabbit.url("gateway").replace(f":{rabbit.port}/", f":{proxy.port}/")
    publisher = Process(url, tmp_path / "publisher.log")
    try:
        publisher.until_ready()
        proxy.hold()
        assert publisher.publish(timeout=8)["reasons"] == ["no confirm in time"]
        proxy.release()
        assert publisher.publish()["outcomes"] == {"ok": 1}
        assert publisher.connections() == 1
    finally:
        publisher.close()
        proxy.close()
