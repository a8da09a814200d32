"""The servers of a test run do what tests ask of them, containers and processes alike, and none outlives the run."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import docker
import psutil
import psycopg
import pytest
import redis
from pika import BasicProperties, DeliveryMode

from shared.messaging.topology import TASKS_DEAD
from tests.support.ports import LOOPBACK
from tests.support.server_choice import REDIS, Choice
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.postgres import PostgresServer
    from tests.support.rabbit import RabbitServer
    from tests.support.redis_server import RedisServer
    from tests.support.servers import Server

SECONDS = 90.0
SERVERS = ("rabbit_server", "redis_server", "postgres_server", "s3_server")


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Server:
    found: Server = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def engine(servers: Choice) -> Iterator[docker.DockerClient]:
    if not servers.contained(REDIS):
        pytest.skip(f"no containers here: {servers.why}")
    with closing(docker.from_env()) as client:
        yield client


@contextmanager
def doomed(kind: str, folder: Path) -> Iterator[str]:
    """A test run that has started something, and is killed at the end of the block."""
    command = [sys.executable, "-m", "tests.support.guarded", kind, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.kill()


def test_it_listens_on_loopback_alone(server: Server) -> None:
    listening = {
        connection.laddr.ip
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == server.port
    }
    assert listening == {LOOPBACK}


def test_it_tells_its_version(server: Server, servers: Choice) -> None:
    assert server.version()[0].isdigit()
    assert server.home().startswith("container" if server.name in servers.images else "process")


def test_a_broker_that_is_killed_keeps_its_port_and_what_was_persisted(rabbit: RabbitServer) -> None:
    with rabbit.connect() as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.basic_publish("", TASKS_DEAD, b"kept", BasicProperties(delivery_mode=DeliveryMode.Persistent))
    before = rabbit.url("gateway")
    rabbit.restart()
    assert rabbit.url("gateway") == before
    assert rabbit.depth(TASKS_DEAD) == 1


def test_a_broker_with_a_new_disk_has_the_topology_and_no_message(rabbit: RabbitServer) -> None:
    with rabbit.connect() as connection:
        connection.channel().basic_publish("", TASKS_DEAD, b"lost")
    rabbit.lose_everything()
    assert rabbit.depth(TASKS_DEAD) == 0


def test_a_database_that_is_killed_keeps_its_port_and_what_was_committed(postgres_server: PostgresServer) -> None:
    url = postgres_server.create_database()
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
    postgres_server.restart()
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT one FROM kept").fetchall() == [(1,)]


def test_a_redis_that_is_killed_is_empty_afterwards(ledger_redis: RedisServer) -> None:
    ledger_redis.client().set("kept", "no")
    ledger_redis.restart()
    assert ledger_redis.client().keys() == []


def test_one_that_is_frozen_keeps_its_connections_and_answers_nobody(ledger_redis: RedisServer) -> None:
    with redis.Redis.from_url(ledger_redis.url, socket_timeout=0.3, retry=None) as client:
        client.ping()
        with ledger_redis.frozen(), pytest.raises(redis.TimeoutError):
            client.ping()
        client.ping()


def test_no_process_outlives_a_test_run_that_is_killed(tmp_path: Path) -> None:
    with doomed("process", tmp_path) as pid:
        assert psutil.pid_exists(int(pid))
    until(lambda: not psutil.pid_exists(int(pid)), SECONDS, "the end of the process")


def is_there(engine: docker.DockerClient, name: str) -> bool:
    return bool(engine.containers.list(all=True, filters={"name": name}))


def test_no_container_outlives_a_test_run_that_is_killed(engine: docker.DockerClient, tmp_path: Path) -> None:
    with doomed("container", tmp_path) as name:
        assert is_there(engine, name)
    until(lambda: not is_there(engine, name), SECONDS, "the end of the container")


def test_a_container_that_was_on_its_way_when_the_run_was_killed_is_removed(
    engine: docker.DockerClient, tmp_path: Path
) -> None:
    with doomed("announcement", tmp_path) as name:
        pass
    engine.containers.create(REDIS.image, name=name)
    until(lambda: not is_there(engine, name), SECONDS, "the end of the container")
