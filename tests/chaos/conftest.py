"""One stack with a simulated worker for all fault runs of a session."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shared.messaging.topology import QueueType
from tests.support.native import NativeStack
from tests.support.processes import require
from tests.support.rabbit import PROGRAMS, RabbitServer
from tests.support.rabbit_container import RabbitContainer, require_image

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.processes import ProcessGuard


@pytest.fixture(scope="session")
def simulated_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeStack]:
    """Everything native, one worker with the simulated model."""
    require(PROGRAMS / "rabbitmq-server", "rabbitmq-server")
    stack = NativeStack(tmp_path_factory.mktemp("stack"), ("simulated",))
    stack.start()
    yield stack
    stack.stop()


@pytest.fixture
def quorum_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NativeStack]:
    """The same with quorum queues."""
    require(PROGRAMS / "rabbitmq-server", "rabbitmq-server")
    stack = NativeStack(tmp_path_factory.mktemp("quorum"), ("simulated",), queue_type=QueueType.QUORUM)
    stack.start()
    yield stack
    stack.stop()


@pytest.fixture
def classic_rabbit(rabbit_server: RabbitServer) -> RabbitServer:
    """The distribution's broker with classic queues."""
    return rabbit_server


@pytest.fixture
def quorum_rabbit(process_guard: ProcessGuard, tmp_path: Path) -> Iterator[RabbitServer]:
    """The broker of the image with quorum queues."""
    require_image()
    server = RabbitContainer(tmp_path / "rabbit", process_guard, queue_type=QueueType.QUORUM)
    server.start()
    yield server
    server.stop()
