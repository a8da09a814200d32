"""The fake browser."""

from __future__ import annotations

import pytest

from shared.domain.errors import BrokerUnavailableError
from shared.messaging.memory import MemoryBroker, MemoryBrowser
from shared.messaging.topology import TASKS_DEAD, topology
from tests.contract.browser import BrowserContract, Desk
from tests.support.builders import MODEL


class MemoryDesk(Desk):
    def __init__(self) -> None:
        self.broker = MemoryBroker(topology([MODEL]))
        self.publisher = self.broker
        self.browser = MemoryBrowser(self.broker, TASKS_DEAD)

    def ready(self) -> int:
        return self.broker.depth(TASKS_DEAD)


@pytest.fixture
def desk() -> MemoryDesk:
    return MemoryDesk()


class TestMemoryBrowser(BrowserContract):
    """See BrowserContract."""


def test_a_broker_that_is_switched_off_shows_nothing(desk: MemoryDesk) -> None:
    desk.park(b"one")
    desk.broker.available = False
    with pytest.raises(BrokerUnavailableError), desk.browser.look():
        pass
