"""Every adapter over TLS to a real server, and what it says of a server that it must not trust."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import SecretStr

from services.gateway.admission.redis_ledger import LedgerUnavailableError, RedisLedger
from services.gateway.redis_client import connect
from services.status.errors import ViewStoreError
from services.status.store.sql import open_store
from shared.auth.bootstrap import key_reader
from shared.auth.errors import TenantStoreError
from shared.auth.store.sql import open_store as open_tenants
from shared.config import StorageSettings
from shared.domain.errors import BrokerUnavailableError, StorageError
from shared.messaging.depths import ReadyCounts
from shared.messaging.topology import work_queue
from shared.storage.s3 import Patience, S3Store
from shared.tls.addresses import amqp_address, postgresql_address, redis_address
from tests.support.ports import LOOPBACK
from tests.support.s3 import ACCESS_KEY, SECRET_KEY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.certificates import Authority
    from tests.support.tls_servers import TlsPostgres, TlsRabbit, TlsRedis, TlsS3


pytestmark = pytest.mark.timeout(120)
# The same machine by a name that no certificate has.
ELSEWHERE = "127.1"
# What follows depends on whether the server shows its authority's certificate as well.
NOT_TRUSTED = "its certificate is not trusted: "
WRONG_NAME = "Hostname mismatch, certificate is not valid for '127.1'"
NO_TLS = "it does not speak TLS"


def ready(url: str) -> int:
    """Messages in a queue, by a connection of its own."""
    counts = ReadyCounts(url, "test")
    counts.start()
    try:
        return counts.ready(work_queue("simulated"), timeout=2)
    finally:
        counts.stop()


def ledger(url: str) -> RedisLedger:
    return RedisLedger(connect(url, 1.0))


def store(endpoint: str, ca_file: Path | None, bucket: str = "none") -> S3Store:
    settings: dict[str, Any] = {"ca_file": ca_file, "s3_endpoint": endpoint, "s3_bucket": bucket}
    keys = {"s3_access_key": SecretStr(ACCESS_KEY), "s3_secret_key": SecretStr(SECRET_KEY)}
    return S3Store(StorageSettings(**settings, **keys), Patience(connect=2, read=5, tries=1))


def broker_case(broker: TlsRabbit, case: str, ours: Path, theirs: Path) -> str:
    url = broker.tls_url("gateway")
    return {
        "another authority": amqp_address(url, theirs),
        "the system's authorities": amqp_address(url, None),
        "another name": amqp_address(url.replace(LOOPBACK, ELSEWHERE), ours),
        "TLS to a plain port": amqp_address(url.replace(str(broker.tls_port), str(broker.port)), ours),
        "plain text to a TLS port": amqp_address(url.replace("amqps", "amqp"), ours),
    }[case]


def test_the_broker(broker: TlsRabbit, authority: Authority) -> None:
    assert ready(amqp_address(broker.tls_url("gateway"), authority.ca_file)) == 0


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("another authority", NOT_TRUSTED),
        ("the system's authorities", NOT_TRUSTED),
        ("another name", WRONG_NAME),
        ("TLS to a plain port", NO_TLS),
        ("plain text to a TLS port", "is it one for amqps://?"),
    ],
)
def test_a_broker_that_is_refused(
    broker: TlsRabbit, authority: Authority, stranger: Authority, case: str, told: str
) -> None:
    with pytest.raises(BrokerUnavailableError) as failed:
        ready(broker_case(broker, case, authority.ca_file, stranger.ca_file))
    assert "ATELIER_AMQP_URL" in failed.value.message
    assert told in failed.value.message


def test_redis(cache: TlsRedis, authority: Authority) -> None:
    ours = ledger(redis_address(f"rediss://localhost:{cache.port}/0", authority.ca_file))
    ours.begin_reconcile()
    ours.end_reconcile()
    assert ours.is_whole()


def redis_case(cache: TlsRedis, case: str, ours: Path, theirs: Path) -> str:
    url = f"rediss://{LOOPBACK}:{cache.port}/0"
    return {
        "another authority": redis_address(url, theirs),
        "the system's authorities": redis_address(url, None),
        "another name": redis_address(url.replace(LOOPBACK, ELSEWHERE), ours),
        "TLS to a plain port": redis_address(url.replace(str(cache.port), str(cache.plain_port)), ours),
        "plain text to a TLS port": redis_address(url.replace("rediss", "redis"), ours),
    }[case]


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("another authority", NOT_TRUSTED),
        ("the system's authorities", NOT_TRUSTED),
        ("another name", WRONG_NAME),
        ("TLS to a plain port", "Timeout"),  # Redis waits for the end of a line
        ("plain text to a TLS port", "ConnectionError"),
    ],
)
def test_a_redis_that_is_refused(
    cache: TlsRedis, authority: Authority, stranger: Authority, case: str, told: str
) -> None:
    with pytest.raises(LedgerUnavailableError) as failed:
        ledger(redis_case(cache, case, authority.ca_file, stranger.ca_file)).is_whole()
    assert "ATELIER_REDIS_URL" in failed.value.message
    assert told in failed.value.message


def test_the_databases(database: TlsPostgres, authority: Authority) -> None:
    name = database.create_database()
    url = postgresql_address(database.tls_url(name, host="localhost"), authority.ca_file)
    views = open_store(url)
    assert views.get("0199") is None
    views.close()
    tenants = open_tenants(url)
    assert list(tenants.tenants()) == []
    tenants.close()


def database_case(server: TlsPostgres, case: str, ours: Path, theirs: Path) -> str:
    url = server.tls_url("postgres")
    return {
        "another authority": postgresql_address(url, theirs),
        "the system's authorities": postgresql_address(f"{url}&sslmode=verify-full", None),
        "another name": postgresql_address(server.tls_url("postgres", host="elsewhere.example"), ours),
        "plain text to a TLS port": postgresql_address(url, None),
    }[case]


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("another authority", "its certificate is not trusted"),
        ("the system's authorities", "its certificate is not trusted"),
        ("another name", "its certificate is for another name"),
        ("plain text to a TLS port", "it speaks TLS alone"),
    ],
)
def test_a_database_that_is_refused(
    database: TlsPostgres, authority: Authority, stranger: Authority, case: str, told: str
) -> None:
    url = database_case(database, case, authority.ca_file, stranger.ca_file)
    with pytest.raises(ViewStoreError) as failed:
        open_store(url)
    assert f"ATELIER_DATABASE_URL: {told}" in failed.value.message
    with pytest.raises(TenantStoreError) as unread:
        key_reader(url).tenants()
    assert f"ATELIER_TENANTS_URL: {told}" in unread.value.message


def test_the_bucket(bucket_server: TlsS3, authority: Authority) -> None:
    bucket = bucket_server.create_bucket()
    ours = store(bucket_server.endpoint, authority.ca_file, bucket)
    ours.probe()
    body = os.urandom(1_000_000)
    ours.put("picture", body, media_type="image/png")
    assert b"".join(ours.open("picture").chunks) == body


def bucket_case(server: TlsS3, case: str, ours: Path, theirs: Path) -> Callable[[], bytes]:
    endpoint, ca_file = {
        "another authority": (server.endpoint, theirs),
        "the system's authorities": (server.endpoint, None),
        "another name": (server.endpoint.replace(LOOPBACK, ELSEWHERE), ours),
        "plain text to a TLS port": (server.endpoint.replace("https", "http"), ours),
    }[case]
    return lambda: store(endpoint, ca_file).get("anything")


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("another authority", NOT_TRUSTED),
        ("the system's authorities", NOT_TRUSTED),
        ("another name", "127.1"),
        ("plain text to a TLS port", ""),  # the store says so and hangs up, which may come first
    ],
)
def test_a_bucket_that_is_refused(
    bucket_server: TlsS3, authority: Authority, stranger: Authority, case: str, told: str
) -> None:
    with pytest.raises(StorageError) as failed:
        bucket_case(bucket_server, case, authority.ca_file, stranger.ca_file)()
    assert "ATELIER_S3_ENDPOINT" in failed.value.message
    assert told in failed.value.message
