"""Gateway, ledger and status API under gunicorn and gevent, with TLS on each of their hops."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import httpx
import psutil
import pytest

from services.status.store.sql import open_store
from shared.clock import utc_now
from shared.contracts.event import queued_event
from shared.lifecycle import ExitCode
from shared.tls.addresses import postgresql_address
from shared.tls.contexts import client_context
from tests.integration.test_gateway_process import ROOT, GatewayProcess
from tests.integration.test_status_api import PICTURE, StatusApi, new_task, succeed
from tests.support.certificates import make_authority
from tests.support.native import UNBOUNDED_PLANS
from tests.support.ports import LOOPBACK, free_port
from tests.support.s3 import ACCESS_KEY, SECRET_KEY
from tests.support.streams import names
from tests.support.tenants import tenant_environment
from tests.support.tls_servers import SERVER
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.certificates import Authority
    from tests.support.processes import ProcessGuard
    from tests.support.tls_servers import TlsPostgres, TlsRabbit, TlsRedis, TlsS3

pytestmark = pytest.mark.timeout(180)
OPERATOR_KEY: Final = "operator-key-for-tests"
# What no log may hold: signs of a library that was loaded before gevent patched ssl, and of a connection in plain text.
BAD_SIGNS: Final = ("RecursionError", "MonkeyPatchWarning", "amqp_connect_failed", "Traceback")


def https_client(port: int, key: str, authority: Authority) -> httpx.Client:
    return httpx.Client(
        base_url=f"https://{LOOPBACK}:{port}",
        headers={"X-API-Key": key},
        timeout=30,
        trust_env=False,
        verify=client_context(authority.ca_file),
    )


def serving(authority: Authority) -> dict[str, str]:
    """The variables of a web server over TLS."""
    return {
        "ATELIER_CA_FILE": str(authority.ca_file),
        "ATELIER_TLS_CERTIFICATE_FILE": str(authority.certificate(SERVER)),
        "ATELIER_TLS_KEY_FILE": str(authority.key(SERVER)),
    }


@dataclass(frozen=True)
class Servers:
    broker: TlsRabbit
    cache: TlsRedis
    database: TlsPostgres
    bucket: TlsS3
    authority: Authority


@pytest.fixture
def servers(
    broker: TlsRabbit, cache: TlsRedis, database: TlsPostgres, bucket_server: TlsS3, authority: Authority
) -> Servers:
    """All of them, emptied where tests would see what others left."""
    broker.purge()
    cache.empty()
    return Servers(broker, cache, database, bucket_server, authority)


@pytest.fixture
def gateway(servers: Servers, process_guard: ProcessGuard, tmp_path: Path) -> Iterator[GatewayProcess]:
    """Not started yet. Its tenants are in the database."""
    database, bucket_server, authority = servers.database, servers.bucket, servers.authority
    process = GatewayProcess(process_guard, tmp_path, servers.broker.tls_url("gateway"))
    url = database.tls_url(database.create_database())
    tenants, (key,) = tenant_environment(tmp_path, "acme", url=postgresql_address(url, authority.ca_file))
    process.environment |= {
        **serving(authority),
        **tenants,
        "ATELIER_TENANTS_URL": url,
        "ATELIER_REDIS_URL": servers.cache.url,
        "ATELIER_PLANS_FILE": str(UNBOUNDED_PLANS),
        "ATELIER_REDIS_TIMEOUT_SECONDS": "1",
        "ATELIER_S3_ENDPOINT": bucket_server.endpoint,
        "ATELIER_S3_BUCKET": bucket_server.create_bucket(),
        "ATELIER_S3_ACCESS_KEY": ACCESS_KEY,
        "ATELIER_S3_SECRET_KEY": SECRET_KEY,
    }
    process.client.close()
    process.client = https_client(process.port, key, authority)
    yield process
    process.client.close()


@contextlib.contextmanager
def running(process: GatewayProcess, **changes: str) -> Iterator[None]:
    started = process.spawn(**changes)
    try:
        until(process.ready, 30, f"the gateway (see {process.log})")
        yield
    finally:
        process.guard.stop(started)


def submit(process: GatewayProcess, number: int, **headers: str) -> httpx.Response:
    body = {"prompt": "a lake", "model": "simulated", "seed": number}
    return process.client.post("/api/v1/generate", json=body, headers=headers)


def test_a_gateway_over_tls_alone_takes_tasks_side_by_side(gateway: GatewayProcess) -> None:
    with running(gateway):
        checks = gateway.client.get("/readyz").json()
        assert set(checks["checks"].values()) == {"ok"}
        with ThreadPoolExecutor(16) as threads:
            answers = list(threads.map(lambda number: submit(gateway, number), range(48)))
        assert {answer.status_code for answer in answers} == {202}
        first, again = (submit(gateway, 100, **{"Idempotency-Key": "the-same-key"}) for _ in range(2))
        assert first.json()["task_id"] == again.json()["task_id"]
        assert set(gateway.client.get("/readyz").json()["checks"].values()) == {"ok"}
    text = gateway.log.read_text()
    assert [sign for sign in BAD_SIGNS if sign in text] == []
    assert {line["message"] for line in gateway.lines()} >= {"amqp_connected", "gateway_started"}


def test_a_gateway_that_does_not_trust_its_broker_says_so(gateway: GatewayProcess, stranger: Authority) -> None:
    address = f"{gateway.environment['ATELIER_AMQP_URL']}?cacertfile={stranger.ca_file}"
    process = gateway.spawn(ATELIER_AMQP_URL=address)

    def told() -> bool:
        with contextlib.suppress(httpx.TransportError):
            answer = gateway.client.get("/readyz")
            return "its certificate is not trusted" in answer.json()["checks"]["broker"]
        return False

    until(told, 30, f"the reason in /readyz (see {gateway.log})")
    assert submit(gateway, 1).status_code == 503
    lines = [line["error.message"] for line in gateway.lines() if line["message"] == "amqp_connect_failed"]
    assert all("ATELIER_AMQP_URL: its certificate is not trusted" in line for line in lines)
    gateway.guard.stop(process)


def test_plain_text_to_a_server_that_speaks_tls_ends_and_harms_nobody(gateway: GatewayProcess) -> None:
    with running(gateway):
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://{LOOPBACK}:{gateway.port}/healthz", trust_env=False, timeout=20)
        with socket.create_connection((LOOPBACK, gateway.port), timeout=20):  # says nothing, and holds up nobody
            assert submit(gateway, 1).status_code == 202
    assert "tls_handshake_failed" in {line["message"] for line in gateway.lines()}


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_nothing_older_than_tls_1_2_is_spoken(gateway: GatewayProcess, authority: Authority) -> None:
    context = client_context(authority.ca_file)
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with (
        running(gateway),
        socket.create_connection((LOOPBACK, gateway.port), timeout=20) as connection,
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(connection, server_hostname=LOOPBACK)


def test_after_a_reload_the_new_certificate_is_shown(gateway: GatewayProcess, tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    old = make_authority(tmp_path / "old", SERVER)
    new = make_authority(tmp_path / "new", SERVER)
    shown.mkdir()

    def show(authority: Authority) -> dict[str, str]:
        (shown / "server.crt").write_bytes(authority.certificate(SERVER).read_bytes())
        (shown / "server.key").write_bytes(authority.key(SERVER).read_bytes())
        return {
            "ATELIER_TLS_CERTIFICATE_FILE": str(shown / "server.crt"),
            "ATELIER_TLS_KEY_FILE": str(shown / "server.key"),
        }

    key = gateway.client.headers["X-API-Key"]
    gateway.client.close()
    gateway.client = https_client(gateway.port, key, old)
    process = gateway.spawn(**show(old))
    until(gateway.ready, 30, f"the gateway (see {gateway.log})")
    show(new)
    process.send_signal(signal.SIGHUP)
    gateway.client.close()
    gateway.client = https_client(gateway.port, key, new)
    until(gateway.ready, 30, f"the gateway with its new certificate (see {gateway.log})")
    gateway.guard.stop(process)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"ATELIER_TLS_KEY_FILE": ""}, "ATELIER_TLS_CERTIFICATE_FILE and ATELIER_TLS_KEY_FILE belong together"),
        ({"ATELIER_TLS_KEY_FILE": "/no/such/file"}, "ATELIER_TLS_KEY_FILE: No such file"),
        ({"ATELIER_TLS_CERTIFICATE_FILE": "/etc/hostname"}, "no certificate in PEM form and the key to it"),
        ({"ATELIER_CA_FILE": "/no/such/file"}, "ATELIER_CA_FILE"),
        ({"ATELIER_CA_FILE": "/etc/hostname"}, "ATELIER_CA_FILE"),
        ({"ATELIER_REDIS_URL": "rediss://127.0.0.1/0?ssl_cert_reqs=none"}, "ATELIER_REDIS_URL"),
    ],
)
def test_useless_files_and_switches_end_it_with_the_code_for_settings(
    gateway: GatewayProcess, changes: dict[str, str], told: str
) -> None:
    assert gateway.spawn(**changes).wait(30) == ExitCode.CONFIGURATION
    (line,) = [line for line in gateway.lines() if line["message"] == "configuration_error"]
    assert told in line["error.message"]


@pytest.fixture
def api(servers: Servers, process_guard: ProcessGuard, tmp_path: Path) -> Iterator[StatusApi]:
    """Started, with its view in the database."""
    database, bucket_server, authority = servers.database, servers.bucket, servers.authority
    server = StatusApi(bucket_server, bucket_server.create_bucket(), process_guard, tmp_path)
    url = database.tls_url(database.create_database())
    server.views.close()
    server.views = open_store(postgresql_address(url, authority.ca_file))
    key = server.client.headers["X-API-Key"]
    server.client.close()
    server.client = https_client(server.port, key, authority)
    server.start(
        **serving(authority),
        ATELIER_DATABASE_URL=url,
        ATELIER_AMQP_URL=servers.broker.tls_url("status"),
        ATELIER_OPERATOR_KEY=OPERATOR_KEY,
    )
    yield server
    server.client.close()
    if server.process is not None:
        process_guard.stop(server.process)
    server.views.close()
    text = (server.folder / "api.log").read_text()
    assert [sign for sign in BAD_SIGNS if sign in text] == []


def test_a_status_api_over_tls_alone_waits_streams_and_hands_out(api: StatusApi) -> None:
    until(lambda: set(api.client.get("/readyz").json()["checks"].values()) == {"ok"}, 20, "every check")
    task = new_task()
    api.views.apply_events([queued_event(task)], seen_until=utc_now())
    told: dict[str, Any] = {}

    def follow() -> None:
        told["stream"] = api.client.get(f"/api/v1/tasks/{task.task_id}/events").content

    def wait() -> None:
        told["state"] = api.client.get(f"/status/{task.task_id}", params={"wait": 25}).json()["status"]

    threads = [threading.Thread(target=each) for each in (follow, wait)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        assert api.client.get("/healthz").status_code == 200
    assert told == {}, "they wait beside the others"
    api.objects.put(succeed(api.views, task, picture=PICTURE), PICTURE, media_type="image/png")
    for thread in threads:
        thread.join(20)
    assert told["state"] == "done"
    assert "succeeded" in names(told["stream"])
    assert api.client.get(f"/api/v1/tasks/{task.task_id}/artifacts/0").content == PICTURE


def test_a_client_that_leaves_a_stream_over_tls_is_noticed(api: StatusApi) -> None:
    task = new_task()
    api.views.apply_events([queued_event(task)], seen_until=utc_now())

    def open_streams() -> float:
        lines = api.client.get("/metrics").text.splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("atelier_streams_open"))

    with api.client.stream("GET", f"/api/v1/tasks/{task.task_id}/events") as answer:
        next(answer.iter_bytes())
        until(lambda: open_streams() == 1, 10, "the open stream")
    until(lambda: open_streams() == 0, 20, "the end of the stream that was left")


def test_the_ledger_asks_the_status_api_over_tls(
    api: StatusApi, servers: Servers, stranger: Authority, tmp_path: Path
) -> None:
    broker, cache, authority = servers.broker, servers.cache, servers.authority
    port = free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "ATELIER_AMQP_URL": f"{broker.tls_url('gateway')}?cacertfile={authority.ca_file}",
        "ATELIER_REDIS_URL": f"{cache.url}?ssl_ca_certs={authority.ca_file}",
        "ATELIER_STATUS_URL": f"https://{LOOPBACK}:{api.port}",
        "ATELIER_OPERATOR_KEY": OPERATOR_KEY,
        "ATELIER_METRICS_PORT": str(port),
    }

    def reconcile() -> str:
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.get(f"http://{LOOPBACK}:{port}/readyz", trust_env=False)
            return str(answer.json()["checks"]["reconcile"])
        return "absent"

    def asks(trusted: Authority, state: str) -> None:
        log = tmp_path / "ledger.log"
        command = [sys.executable, "-m", "services.gateway.ledger"]
        changes = {"ATELIER_CA_FILE": str(trusted.ca_file)}
        process = api.guard.spawn(command, log=log, env=environment | changes, cwd=ROOT)
        try:
            until(lambda: state in reconcile(), 30, f"{state} (see {log})")
        finally:
            api.guard.stop(process)

    asks(stranger, "ATELIER_STATUS_URL: its certificate is not trusted")
    asks(authority, "ok")


def test_every_connection_of_a_gateway_leads_to_a_port_for_tls(gateway: GatewayProcess, servers: Servers) -> None:
    broker, cache = servers.broker, servers.cache
    process = gateway.spawn()
    until(gateway.ready, 30, f"the gateway (see {gateway.log})")
    assert submit(gateway, 1).status_code == 202
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    remote = {each.raddr.port for member in family for each in member.net_connections() if each.status == "ESTABLISHED"}
    assert {broker.tls_port, cache.port} <= remote
    assert not {broker.port, cache.plain_port} & remote
    gateway.guard.stop(process)
