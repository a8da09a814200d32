"""What several integration tests start from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from shared.messaging.topology import QueueType
from tests.support.matrix import fault_site
from tests.support.processes import require
from tests.support.rabbit import PROGRAMS, RabbitProcess
from tests.support.rabbit_container import RabbitContainer, require_image
from tests.support.server_choice import Mode, asked_mode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.matrix import FaultSite
    from tests.support.processes import ProcessGuard
    from tests.support.rabbit import RabbitServer
    from tests.support.s3 import S3Server


BROKERS: Final = [(where, kind) for where in ("process", "container") for kind in QueueType]
# What tests run on that every broker passes, and that are long: the two that differ most.
BROKERS_APART: Final = [("process", QueueType.CLASSIC), ("container", QueueType.QUORUM)]


@pytest.fixture
def fault_bench(
    rabbit_server: RabbitServer, s3_server: S3Server, process_guard: ProcessGuard, tmp_path: Path
) -> Iterator[FaultSite]:
    """A site for one test of the fault matrix; no worker runs yet."""
    with fault_site(rabbit_server, s3_server, process_guard, tmp_path) as site:
        yield site


@pytest.fixture(scope="session", params=BROKERS, ids="-".join)
def each_rabbit_server(
    request: pytest.FixtureRequest, process_guard: ProcessGuard, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RabbitServer]:
    """The distribution's RabbitMQ and that of the image, each with classic and with quorum queues."""
    where, queue_type = request.param
    folder = tmp_path_factory.mktemp(f"rabbit-{where}-{queue_type}")
    server: RabbitServer
    if where == "process":
        if asked_mode() is Mode.CONTAINERS and not (PROGRAMS / "rabbitmq-server").exists():
            pytest.skip("containers are asked for, and the distribution's broker is not installed")
        require(PROGRAMS / "rabbitmq-server", "rabbitmq-server")
        server = RabbitProcess(folder, process_guard, queue_type=queue_type)
    else:
        if asked_mode() is Mode.LOCAL:
            pytest.skip("processes are asked for")
        require_image()
        server = RabbitContainer(folder, process_guard, queue_type=queue_type)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def each_rabbit(each_rabbit_server: RabbitServer) -> RabbitServer:
    """Each of them in turn, with empty queues."""
    each_rabbit_server.purge()
    return each_rabbit_server
