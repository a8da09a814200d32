"""The same contract on a real RabbitMQ, and what only a real broker can do: lose the connection, refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shared.domain.errors import BrokerError
from shared.messaging.browser import RabbitBrowser
from shared.messaging.publisher import ThreadedPublisher
from shared.messaging.topology import TASKS_DEAD, QueueType
from tests.contract.browser import BrowserContract, Desk, numbered
from tests.integration.conftest import BROKERS_APART
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.rabbit import RabbitServer


class RabbitDesk(Desk):
    def __init__(self, server: RabbitServer) -> None:
        self.server = server
        self.keeps_order = server.queue_type is QueueType.CLASSIC
        self.publisher = self._publisher = ThreadedPublisher(server.url("admin"), "test.publish")
        self.browser = self._browser = RabbitBrowser(server.url("admin"), "test.browse", TASKS_DEAD)
        self._publisher.start()
        self._browser.start()

    def ready(self) -> int:
        return self.server.depth(TASKS_DEAD)

    def stop(self) -> None:
        self._browser.stop()
        self._publisher.stop()


pytestmark = pytest.mark.parametrize("each_rabbit_server", BROKERS_APART, indirect=True, ids="-".join)


@pytest.fixture
def rabbit(each_rabbit: RabbitServer) -> RabbitServer:
    return each_rabbit


@pytest.fixture
def desk(rabbit: RabbitServer) -> Iterator[RabbitDesk]:
    desk = RabbitDesk(rabbit)
    yield desk
    desk.stop()


class TestRabbitBrowser(BrowserContract):
    """See BrowserContract."""


def test_a_connection_that_is_cut_in_the_middle_loses_and_reorders_nothing(desk: RabbitDesk) -> None:
    desk.park(*numbered(50))

    def take_out_two() -> None:
        with desk.browser.look() as look:
            page = look.page(20)
            look.take_out(page[0])
            desk.server.close_connections()
            look.take_out(page[1])

    with pytest.raises(BrokerError):
        take_out_two()
    until(lambda: desk.ready() == 49, what="everything to be back")
    assert desk.numbered_bodies() == numbered(50)[1:]


def test_a_broker_that_was_killed_in_the_middle_has_everything_again(desk: RabbitDesk) -> None:
    desk.park(*numbered(50))

    def look_at_two_pages() -> None:
        with desk.browser.look() as look:
            look.page(20)
            desk.server.restart()
            look.page(20)

    with pytest.raises(BrokerError):
        look_at_two_pages()
    assert desk.numbered_bodies() == numbered(50)


def test_a_queue_that_is_not_there_is_an_error(rabbit: RabbitServer) -> None:
    browser = RabbitBrowser(rabbit.url("admin"), "test.browse", "no-such-queue")
    browser.start()
    with pytest.raises(BrokerError, match="no-such-queue"), browser.look():
        pass
    browser.stop()


def test_a_queue_that_one_may_not_read_is_an_error_and_stays_as_it_is(desk: RabbitDesk) -> None:
    desk.park(*numbered(3))
    browser = RabbitBrowser(desk.server.url("worker"), "test.browse", TASKS_DEAD)
    browser.start()
    with pytest.raises(BrokerError, match="ACCESS_REFUSED"), browser.look() as look:
        look.page(1)
    browser.stop()
    assert desk.bodies() == numbered(3)
