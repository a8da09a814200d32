"""The gateway as it is run: gunicorn, its configuration file, a real RabbitMQ."""

from __future__ import annotations

import json
import os
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from shared.contracts.base import decode
from shared.contracts.event import TaskEvent
from shared.contracts.task import TaskMessage
from shared.domain.task import EventType
from shared.messaging.topology import STATUS_EVENTS, work_queue
from tests.support.ports import LOOPBACK, free_port
from tests.support.tenants import tenant_environment
from tests.support.waiting import until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from tests.support.processes import ProcessGuard
    from tests.support.rabbit import RabbitServer

ROOT = Path(__file__).parents[2]
MAX_BODY_BYTES = 10_000


class GatewayProcess:
    def __init__(self, guard: ProcessGuard, folder: Path, amqp_url: str) -> None:
        self.guard, self.log, self.port = guard, folder / "gateway.log", free_port()
        tenants, (self.key,) = tenant_environment(folder, "acme")
        self.environment = {
            "PATH": os.environ["PATH"],
            "ATELIER_AMQP_URL": amqp_url,
            "ATELIER_MODELS": "simulated",
            "ATELIER_MODELS_DIR": str(ROOT / "models"),
            # Nothing listens there: results cannot be looked up, and every task is done.
            "ATELIER_S3_ENDPOINT": f"http://{LOOPBACK}:1",
            "ATELIER_S3_ACCESS_KEY": "a",
            "ATELIER_S3_SECRET_KEY": "b",
            **tenants,
            "ATELIER_MAX_BODY_BYTES": str(MAX_BODY_BYTES),
        }
        self.client = httpx.Client(
            base_url=f"http://{LOOPBACK}:{self.port}",
            headers={"X-API-Key": self.key, "Connection": "close"},
            timeout=30,
            trust_env=False,
        )

    def spawn(self, **changes: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "gunicorn", "--config", "python:services.gateway.gunicorn_conf"]
        command += ["--bind", f"{LOOPBACK}:{self.port}", "services.gateway.wsgi:build()"]
        return self.guard.spawn(command, log=self.log, env=self.environment | changes, cwd=ROOT)

    def ready(self) -> bool:
        try:
            return self.client.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def raw(self, body: bytes) -> bytes:
        """Send a chunked request whose body is given byte by byte, and read the answer."""
        head = (
            f"POST /generate HTTP/1.1\r\nHost: gateway\r\nX-API-Key: {self.key}\r\nConnection: close\r\n"
            "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        with socket.create_connection((LOOPBACK, self.port), timeout=30) as connection:
            connection.sendall(head.encode() + body)
            answer = b""
            # A server that did not read everything resets the connection after its answer.
            with suppress(ConnectionResetError):
                while data := connection.recv(65536):
                    answer += data
        return answer

    def lines(self) -> list[dict[str, Any]]:
        """Every line of the log; each has to be JSON."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@pytest.fixture
def process(rabbit: RabbitServer, process_guard: ProcessGuard, tmp_path: Path) -> Iterator[GatewayProcess]:
    """Not started yet."""
    process = GatewayProcess(process_guard, tmp_path, rabbit.url("gateway"))
    yield process
    process.client.close()


@pytest.fixture
def gateway(process: GatewayProcess) -> Iterator[GatewayProcess]:
    """Started and ready."""
    running = process.spawn()
    until(process.ready, 30, f"the gateway (see {process.log})")
    yield process
    process.guard.stop(running)


def test_an_accepted_task_lies_in_its_queue_with_its_event(gateway: GatewayProcess, rabbit: RabbitServer) -> None:
    answer = gateway.client.post("/generate", json={"prompt": "a lake"}, headers={"X-Request-ID": "request-0001"})
    assert answer.status_code == 202
    with rabbit.connect() as connection:
        channel = connection.channel()
        _, properties, body = channel.basic_get(work_queue("simulated"), auto_ack=True)
        _, _, event_body = channel.basic_get(STATUS_EVENTS, auto_ack=True)
    assert body is not None
    assert event_body is not None
    assert properties is not None
    task, event = decode(TaskMessage, body), decode(TaskEvent, event_body)
    assert task.task_id == event.task_id == answer.json()["task_id"]
    assert (event.type, event.data.task) == (EventType.QUEUED, task)
    assert (properties.delivery_mode, properties.priority) == (2, 5)
    assert 7_190_000 < int(properties.expiration or 0) <= 7_200_000
    (line,) = [line for line in gateway.lines() if line["message"] == "task_submitted"]
    assert (line["task_id"], line["tenant_id"], line["request_id"]) == (task.task_id, "acme", "request-0001")
    assert "a lake" not in gateway.log.read_text()
    assert gateway.key not in gateway.log.read_text()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"zz\r\n{}\r\n0\r\n\r\n", b"400"),
        (b"4e20\r\n" + b" " * 20_000 + b"\r\n0\r\n\r\n", b"413"),
        (b"2\r\n{}\r\n0\r\n\r\n", b"422"),
    ],
    ids=["no chunks", "too large", "small"],
)
def test_a_chunked_body(gateway: GatewayProcess, rabbit: RabbitServer, body: bytes, status: bytes) -> None:
    head, _, document = gateway.raw(body).partition(b"\r\n\r\n")
    assert head.split()[1] == status
    assert json.loads(document)["status"] == int(status)
    assert rabbit.depth(work_queue("simulated")) == 0


def test_a_broker_that_goes_and_comes_is_503_and_then_202(gateway: GatewayProcess, rabbit: RabbitServer) -> None:
    rabbit.kill()
    until(lambda: not gateway.ready(), 30, "the gateway to notice")
    answer = gateway.client.post("/generate", json={"prompt": "a lake"})
    rabbit.start()
    assert answer.status_code == 503
    assert answer.json()["code"] == "broker_unavailable"
    assert int(answer.headers["Retry-After"]) > 0
    until(gateway.ready, 30, "the gateway to be back")
    assert gateway.client.post("/generate", json={"prompt": "a lake"}).status_code == 202
    assert rabbit.depth(work_queue("simulated")) == 1


def test_everything_it_says_from_start_to_stop_is_json(process: GatewayProcess) -> None:
    running = process.spawn()
    until(process.ready, 30, f"the gateway (see {process.log})")
    process.client.post("/generate", content=b"{")
    process.client.close()
    running.terminate()
    assert running.wait(30) == 0
    said = [line["message"] for line in process.lines()]
    assert {"gateway_started", "request_refused"} <= set(said)
    assert {line["service.name"] for line in process.lines()} == {"gateway"}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"ATELIER_KEY_PEPPER": ""}, "ATELIER_KEY_PEPPER"),
        ({"ATELIER_LOG_LEVEL": "loud"}, "ATELIER_LOG_LEVEL"),
        ({"ATELIER_DEFAULT_MODEL": "other"}, "ATELIER_DEFAULT_MODEL"),
        ({"ATELIER_MODELS": "absent"}, "absent/atelier.toml"),
        ({"ATELIER_TENANTS_URL": "sqlite:////nowhere/tenants.db"}, "ATELIER_TENANTS_URL: there is no folder /nowhere"),
        ({"ATELIER_TENANTS_URL": "sqlite:////tmp/not-there.db"}, "ATELIER_TENANTS_URL: there is no file"),
        ({"ATELIER_TENANTS_URL": "mysql://u:sec@h/d"}, "ATELIER_TENANTS_URL"),
        ({"ATELIER_PLANS_FILE": "/nowhere/plans.toml"}, "ATELIER_PLANS_FILE: /nowhere/plans.toml"),
        ({"ATELIER_AMQP_URL": "amqp://gateway:sec#ret@localhost:5672/atelier"}, "ATELIER_AMQP_URL"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_at_the_start_is_named_in_one_line_and_ends_it(
    process: GatewayProcess, changes: dict[str, str], named: str
) -> None:
    assert process.spawn(**changes).wait(30) == 78
    (line,) = process.lines()
    assert line["message"] == "configuration_error"
    assert named in line["error.message"]
    assert "sec" not in line["error.message"]
