"""Clients without a key, through the real entrance: who they are is where they come from, whatever they claim."""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest

from infra.native.entrance import local_entrance, nginx_command
from infra.nginx.entrance import nginx_conf
from services.status.store.sql import open_store as open_view
from shared.auth.keys import generate_key
from shared.clock import utc_now
from shared.contracts.base import decode
from shared.contracts.event import TaskEvent
from shared.domain.plans import is_anonymous
from shared.lifecycle import ExitCode
from shared.messaging.topology import STATUS_EVENTS
from tests.integration.test_gateway_process import GatewayProcess
from tests.integration.test_key_changes import Site
from tests.support.builders import TASK_ID
from tests.support.ports import LOOPBACK, free_port
from tests.support.tenants import plans_with_anonymous
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.processes import ProcessGuard
    from tests.support.rabbit import RabbitServer
    from tests.support.redis_server import RedisServer

# Every address of 127.0.0.0/8 is this machine.
HERE, THERE = "127.0.0.2", "127.0.0.3"
CLAIMS: Final = {"X-Forwarded-For": "6.6.6.{0}", "X-Real-IP": "6.6.6.{0}", "Forwarded": "for=6.6.6.{0}"}


class Front:
    """Nginx before two gateways and a status API; the anonymous plan is on."""

    def __init__(self, site: Site, rabbit: RabbitServer, redis: RedisServer) -> None:
        self.site, self.rabbit = site, rabbit
        self.port = free_port()
        site.tenants["ATELIER_PLANS_FILE"] = str(plans_with_anonymous(site.folder))
        site.environment["ATELIER_REDIS_URL"] = redis.url
        # A machine that runs two gateways, a broker and their clients on two cores answers late at times.
        site.environment["ATELIER_REDIS_TIMEOUT_SECONDS"] = "1"

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        self.site.start()
        gateways = [int(url.rsplit(":", 1)[1]) for url in self.site.gateways]
        status = int(self.site.status.rsplit(":", 1)[1])
        folder = self.site.folder
        entrance = local_entrance(
            listen=self.port, gateways=gateways, status_apis=[status], run=folder, access_log=str(folder / "access.log")
        )
        (folder / "nginx.conf").write_text(nginx_conf(entrance))
        process = subprocess.Popen(nginx_command(folder / "nginx.conf"))
        try:
            until(self._is_open, 20, "nginx")
            yield
        finally:
            process.terminate()
            process.wait(10)

    def client(self, address: str) -> httpx.Client:
        """A client at an address of its own."""
        transport = httpx.HTTPTransport(local_address=address)
        return httpx.Client(base_url=f"http://{LOOPBACK}:{self.port}", transport=transport, timeout=30)

    def apply_events(self) -> list[TaskEvent]:
        """As the status consumer does."""
        events = []
        with self.rabbit.connect() as connection:
            channel = connection.channel()
            while (body := channel.basic_get(STATUS_EVENTS, auto_ack=True)[2]) is not None:
                events.append(decode(TaskEvent, body))
        view = open_view(f"sqlite:///{self.site.folder}/status.db")
        view.apply_events(events, seen_until=utc_now())
        view.close()
        return events

    def _is_open(self) -> bool:
        with contextlib.suppress(httpx.TransportError), self.client(HERE) as client:
            return client.get("/healthz").status_code == 200
        return False


@pytest.fixture
def front(
    rabbit: RabbitServer, ledger_redis: RedisServer, process_guard: ProcessGuard, tmp_path: Path
) -> Iterator[Front]:
    site = Site(process_guard, tmp_path, rabbit)
    front = Front(site, rabbit, ledger_redis)
    with front.running():
        yield front
    site.stop()


def submit(client: httpx.Client, number: int, **headers: str) -> httpx.Response:
    """Each with another address in every header that could tell one."""
    claims = {name: value.format(number) for name, value in CLAIMS.items()}
    return client.post("/api/v1/generate", json={"prompt": "a lake"}, headers={**claims, **headers})


def code_of(answer: httpx.Response) -> str:
    body: dict[str, Any] = answer.json()
    return str(body.get("code", answer.status_code))


def test_strangers_are_counted_by_where_they_come_from_and_read_by_id(front: Front) -> None:
    with front.client(HERE) as here, front.client(THERE) as there:
        answers = [submit(here, number) for number in range(10)]
        assert [code_of(answer) for answer in answers] == ["202"] * 5 + ["rate_limited"] * 5
        assert int(answers[-1].headers["Retry-After"]) > 0
        assert code_of(submit(there, 0)) == "202"
        assert code_of(submit(here, 0, **{"X-API-Key": front.site.key})) == "202"

        *strange, own = [event.data.task for event in front.apply_events() if event.data.task]
        assert own.tenant_id == "acme"
        assert all(is_anonymous(task.tenant_id) for task in strange)
        assert [len({task.tenant_id for task in tasks}) for tasks in (strange[:5], strange)] == [1, 2]

        for reader in (here, there):
            assert reader.get(f"/status/{strange[0].task_id}").json()["status"] == "queued"
        assert here.get(f"/api/v1/tasks/{strange[0].task_id}", headers={"X-API-Key": "wrong"}).status_code == 401
        assert code_of(here.get(f"/status/{TASK_ID}")) == "task_not_found"
        assert here.get(f"/status/{TASK_ID}", headers={"X-API-Key": front.site.key}).status_code == 200


def test_guessed_keys_are_counted_by_where_they_come_from(front: Front) -> None:
    with front.client(HERE) as here, front.client(THERE) as there:
        codes = [code_of(submit(here, number, **{"X-API-Key": generate_key()})) for number in range(200)]
        assert set(codes) == {"unauthorized", "too_many_failures"}
        assert codes.count("unauthorized") >= 30  # of each gateway that was asked; the minute gives some back
        refused = until(lambda: next_refusal(here), 20, "an empty bucket")
        assert refused is not None
        assert int(refused.headers["Retry-After"]) >= 1
        assert code_of(submit(there, 0, **{"X-API-Key": generate_key()})) == "unauthorized"
        assert code_of(submit(there, 0, **{"X-API-Key": front.site.key})) == "202"


def next_refusal(client: httpx.Client) -> httpx.Response | None:
    answer = submit(client, 0, **{"X-API-Key": generate_key()})
    return answer if answer.status_code == 429 else None


def test_a_gateway_that_could_not_count_strangers_does_not_start(
    rabbit: RabbitServer, process_guard: ProcessGuard, tmp_path: Path
) -> None:
    process = GatewayProcess(process_guard, tmp_path, rabbit.url("gateway"))
    plans = str(plans_with_anonymous(tmp_path))
    assert process.spawn(ATELIER_PLANS_FILE=plans).wait(30) == ExitCode.CONFIGURATION
    (line,) = process.lines()
    assert "ATELIER_REDIS_URL" in line["error.message"]
    process.client.close()
