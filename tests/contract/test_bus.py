"""The fake bus."""

from __future__ import annotations

import pytest

from shared.messaging.memory import MemoryBroker, MemoryConsumer
from shared.messaging.topology import topology
from tests.contract.bus import Bus, BusContract
from tests.support.builders import MODEL


class MemoryBus(Bus):
    pause = 0.02

    def __init__(self) -> None:
        self.publisher = self._broker = MemoryBroker(topology([MODEL]))
        self._consumers: list[MemoryConsumer] = []

    def late(self, queue: str) -> MemoryConsumer:
        consumer = MemoryConsumer(self._broker, queue)
        self._consumers.append(consumer)
        return consumer

    def batch(self, queue: str) -> MemoryConsumer:
        return self.late(queue)

    def ready(self, queue: str) -> int:
        return self._broker.depth(queue)

    def break_connections(self) -> None:
        for consumer in self._consumers:
            consumer.disconnect()


class TestMemoryBus(BusContract):
    @pytest.fixture
    def bus(self) -> MemoryBus:
        return MemoryBus()
