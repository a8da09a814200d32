"""What an operator does to tenants and keys, seen by running gateways and status APIs."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest

from services.status.store.sql import open_store as open_view
from shared.clock import utc_now
from shared.contracts.event import queued_event
from tests.support.builders import TASK_ID, make_task
from tests.support.ports import LOOPBACK, free_port
from tests.support.proxy import TcpProxy
from tests.support.tenants import tenant_environment
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.postgres import PostgresServer
    from tests.support.processes import ProcessGuard
    from tests.support.rabbit import RabbitServer

ROOT: Final = Path(__file__).parents[2]
# Promised are ten seconds; each poll of two takes its own time.
CHANGE_SECONDS: Final = 12.0


class Site:
    """Two gateways and a status API over one store of tenants."""

    def __init__(self, guard: ProcessGuard, folder: Path, rabbit: RabbitServer) -> None:
        self.guard, self.folder = guard, folder
        self.tenants, (self.key, self.other) = tenant_environment(folder, "acme", "zeus")
        view = open_view(f"sqlite:///{folder}/status.db")
        view.apply_events([queued_event(make_task(tenant_id="acme"))], seen_until=utc_now())
        view.close()
        self.environment = {
            "PATH": os.environ["PATH"],
            "ATELIER_AMQP_URL": rabbit.url("gateway"),
            "ATELIER_MODELS": "simulated",
            "ATELIER_MODELS_DIR": str(ROOT / "models"),
            "ATELIER_DATABASE_URL": f"sqlite:///{folder}/status.db",
            "ATELIER_S3_ENDPOINT": f"http://{LOOPBACK}:9",
            "ATELIER_S3_ACCESS_KEY": "none",
            "ATELIER_S3_SECRET_KEY": "none",
        }
        self.client = httpx.Client(timeout=30, trust_env=False)
        self.gateways: list[str] = []
        self.status = ""
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, gateways: int = 2, *, status: bool = True) -> None:
        self.gateways = [self._spawn("services.gateway") for _ in range(gateways)]
        self.status = self._spawn("services.status") if status else ""
        for url in filter(None, [*self.gateways, self.status]):
            until(partial(self.is_ready, url), 40, f"{url} (see {self.folder})")

    def stop(self) -> None:
        self.client.close()
        for process in self._running:
            self.guard.stop(process)

    def admin(self, *arguments: str) -> Any:  # noqa: ANN401 - JSON of any shape
        command = [sys.executable, "-m", "services.gateway.admin", *arguments, "--json"]
        environment = {"PATH": os.environ["PATH"], **self.tenants}
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, check=False, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def answers(self, key: str) -> list[tuple[int, str]]:
        """Status and code of every process; a status API answers 404 for another tenant's task."""
        urls = [f"{gateway}/api/v1/models" for gateway in self.gateways]
        if self.status:
            urls.append(f"{self.status}/status/{TASK_ID}")
        return [self._answer(self.client.get(url, headers={"X-API-Key": key})) for url in urls]

    def everywhere(self, key: str, status: int, code: str) -> bool:
        return all(answer == (status, code) for answer in self.answers(key))

    def accepted(self, key: str) -> bool:
        return all(status in {200, 404} for status, _ in self.answers(key))

    def is_ready(self, url: str) -> bool:
        return self.readiness(url)[0] == 200

    def is_degraded(self, url: str) -> bool:
        return bool(self.readiness(url)[1]["status"] == "degraded")

    def readiness(self, url: str) -> tuple[int, dict[str, Any]]:
        try:
            answer = self.client.get(f"{url}/readyz")
        except httpx.TransportError:
            return 0, {}
        return answer.status_code, answer.json()

    def priority_of_new_task(self, key: str) -> int:
        answer = self.client.post(
            f"{self.gateways[0]}/api/v1/generate", json={"prompt": "a lake"}, headers={"X-API-Key": key}
        )
        return int(answer.json()["priority"])

    def _answer(self, answer: httpx.Response) -> tuple[int, str]:
        return answer.status_code, answer.json().get("code", "")

    def _spawn(self, package: str) -> str:
        port = free_port()
        command = [sys.executable, "-m", "gunicorn", "--config", f"python:{package}.gunicorn_conf"]
        command += ["--bind", f"{LOOPBACK}:{port}", f"{package}.wsgi:build()"]
        environment = {**self.environment, **self.tenants}
        log = self.folder / f"{package}.{port}.log"
        self._running.append(self.guard.spawn(command, log=log, env=environment, cwd=ROOT))
        return f"http://{LOOPBACK}:{port}"


@pytest.fixture
def site(rabbit: RabbitServer, process_guard: ProcessGuard, tmp_path: Path) -> Iterator[Site]:
    site = Site(process_guard, tmp_path, rabbit)
    yield site
    site.stop()


def test_changes_of_the_operator_reach_every_process(site: Site) -> None:
    site.start()
    assert site.accepted(site.key)
    assert site.accepted(site.other)

    new = site.admin("key", "rotate", site.key[4:12], "--grace", "1h")["key"]
    assert site.accepted(new)
    assert site.accepted(site.key)
    site.admin("key", "revoke", site.key[4:12])
    until(lambda: site.everywhere(site.key, 401, "key_revoked"), CHANGE_SECONDS, "the revocation")
    assert site.accepted(new)

    site.admin("tenant", "suspend", "acme")
    until(lambda: site.everywhere(new, 403, "tenant_suspended"), CHANGE_SECONDS, "the suspension")
    assert site.accepted(site.other)
    site.admin("tenant", "resume", "acme")
    until(lambda: site.accepted(new), CHANGE_SECONDS, "the resumption")

    assert site.priority_of_new_task(new) == 5
    site.admin("tenant", "set-plan", "acme", "vip")
    until(lambda: site.priority_of_new_task(new) == 9, CHANGE_SECONDS, "the new plan")


def test_a_store_that_is_gone_is_degraded_for_known_keys_and_503_for_others(site: Site) -> None:
    site.start(gateways=1)
    assert site.accepted(site.key)
    files = list(site.folder.glob("tenants.db*"))
    for path in files:
        path.rename(path.with_name(f"away-{path.name}"))
    for url in (site.gateways[0], site.status):
        until(partial(site.is_degraded, url), CHANGE_SECONDS, "the warning")
        status, body = site.readiness(url)
        assert (status, body["checks"]["keys"].split(":")[0]) == (200, "degraded")
    until(lambda: site.everywhere(site.other, 503, "keys_unavailable"), CHANGE_SECONDS, "the refusal")
    answer = site.client.get(f"{site.gateways[0]}/api/v1/models", headers={"X-API-Key": site.other})
    assert int(answer.headers["Retry-After"]) > 0
    assert site.accepted(site.key)
    for path in files:
        path.with_name(f"away-{path.name}").rename(path)
    until(lambda: site.accepted(site.other), CHANGE_SECONDS, "the store to be back")
    assert site.readiness(site.gateways[0])[1]["status"] == "ready"


def test_a_locked_store_is_degraded_for_known_keys_and_503_for_others(site: Site) -> None:
    site.start(gateways=1)
    assert site.accepted(site.key)
    owner = sqlite3.connect(site.folder / "tenants.db", isolation_level=None)
    owner.execute("PRAGMA locking_mode = EXCLUSIVE")
    until(partial(locked, owner), CHANGE_SECONDS, "the lock")
    until(lambda: site.everywhere(site.other, 503, "keys_unavailable"), CHANGE_SECONDS, "the refusal")
    assert site.accepted(site.key)
    until(partial(site.is_degraded, site.gateways[0]), CHANGE_SECONDS, "the warning")
    owner.close()
    until(lambda: site.accepted(site.other), CHANGE_SECONDS, "the store to be back")


def locked(owner: sqlite3.Connection) -> bool:
    """Whether nobody else can read any more; a reader may be in the way."""
    try:
        owner.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError:
        return False
    return True


def test_a_gateway_on_postgresql_answers_others_while_the_database_says_nothing(
    site: Site, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    url = postgres_server.create_database()
    proxy = TcpProxy(postgres_server.port)
    through = url.replace(str(postgres_server.port), str(proxy.port))
    site.tenants, (key, other) = tenant_environment(tmp_path, "acme", "zeus", url=through)
    site.start(gateways=1, status=False)
    assert site.accepted(key)
    proxy.hold()
    refused: list[tuple[int, str]] = []
    waiting = threading.Thread(target=lambda: refused.extend(site.answers(other)))
    waiting.start()
    answered = 0
    with httpx.Client(trust_env=False, timeout=30) as client:
        while waiting.is_alive():
            answered += client.get(f"{site.gateways[0]}/healthz").status_code == 200
    assert refused == [(503, "keys_unavailable")]
    assert answered > 10  # a gateway that blocks answers one or two
    assert site.accepted(key)
    proxy.release()
    until(lambda: site.accepted(other), CHANGE_SECONDS, "the database to be back")
    proxy.close()
