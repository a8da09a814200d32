"""The ledger after Redis lost everything: filled again from the status API, with the tasks that only wait."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Final

import httpx
import pytest

from services.status.store.sql import open_store
from shared.clock import utc_now
from shared.contracts.base import decode
from shared.contracts.event import TaskEvent
from shared.messaging.topology import STATUS_EVENTS
from tests.integration.test_gateway_process import ROOT
from tests.support.ports import LOOPBACK, free_port
from tests.support.replicas import Replicas, codes
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.processes import ProcessGuard
    from tests.support.rabbit import RabbitServer
    from tests.support.redis_server import RedisServer

OPERATOR_KEY: Final = "operator-key-for-tests"


class Reconciled(Replicas):
    """With a status API, and a ledger process that may ask it."""

    def __init__(self, rabbit: RabbitServer, redis: RedisServer, guard: ProcessGuard, folder: Path) -> None:
        super().__init__(rabbit, redis, guard, folder)
        self.status_port, self.metrics_port = free_port(), free_port()
        self.database_url = f"sqlite:///{folder}/status.db"
        open_store(self.database_url).close()

    def start_status(self) -> None:
        command = [sys.executable, "-m", "gunicorn", "--config", "python:services.status.gunicorn_conf"]
        command += ["--bind", f"{LOOPBACK}:{self.status_port}", "services.status.wsgi:build()"]
        environment = {
            **self.tenants,
            "PATH": os.environ["PATH"],
            "ATELIER_DATABASE_URL": self.database_url,
            "ATELIER_AMQP_URL": self.rabbit.url("status"),
            "ATELIER_S3_ENDPOINT": f"http://{LOOPBACK}:9",
            "ATELIER_S3_ACCESS_KEY": "none",
            "ATELIER_S3_SECRET_KEY": "none",
            "ATELIER_OPERATOR_KEY": OPERATOR_KEY,
        }
        log = self.folder / "status.log"
        self.processes.append(self.guard.spawn(command, log=log, env=environment, cwd=ROOT))

    def restart_ledger(self, **settings: str) -> None:
        self.guard.kill(self.processes.pop())
        environment = {
            "PATH": os.environ["PATH"],
            "ATELIER_AMQP_URL": self.rabbit.url("gateway"),
            "ATELIER_REDIS_URL": self.redis.url,
            "ATELIER_METRICS_PORT": str(self.metrics_port),
            **settings,
        }
        command = [sys.executable, "-m", "services.gateway.ledger"]
        log = self.folder / "ledger.log"
        self.processes.append(self.guard.spawn(command, log=log, env=environment, cwd=ROOT))

    def apply_events(self) -> None:
        """As the status consumer does."""
        events = []
        with self.rabbit.connect() as connection:
            channel = connection.channel()
            while (body := channel.basic_get(STATUS_EVENTS, auto_ack=True)[2]) is not None:
                events.append(decode(TaskEvent, body))
        view = open_store(self.database_url)
        view.apply_events(events, seen_until=utc_now())
        view.close()

    def readiness(self) -> dict[str, Any]:
        try:
            answer = httpx.get(f"http://{LOOPBACK}:{self.metrics_port}/readyz", trust_env=False)
        except httpx.TransportError:
            return {"status": "absent"}
        body: dict[str, Any] = answer.json()
        return body


@pytest.fixture
def replicas(
    rabbit: RabbitServer, ledger_redis: RedisServer, process_guard: ProcessGuard, tmp_path: Path
) -> Iterator[Reconciled]:
    replicas = Reconciled(rabbit, ledger_redis, process_guard, tmp_path)
    yield replicas
    for gateway in replicas.gateways:
        gateway.client.close()
    for process in replicas.processes:
        process_guard.kill(process)


def test_after_a_loss_the_waiting_tasks_count_again_and_their_ends_free_them(replicas: Reconciled) -> None:
    replicas.start(queued=12)
    asking = {"ATELIER_STATUS_URL": f"http://{LOOPBACK}:{replicas.status_port}", "ATELIER_OPERATOR_KEY": OPERATOR_KEY}
    replicas.restart_ledger(**asking)
    assert codes(replicas.submit_many(15)) == {"accepted": 12, "too_many_tasks": 3}
    replicas.apply_events()
    until(lambda: replicas.readiness()["status"] == "degraded", 30, "the warning while there is no status API")
    replicas.redis.client().flushall()
    replicas.start_status()
    until(lambda: replicas.open_tasks() == 12, 30, "the tasks to be back")
    until(lambda: replicas.readiness()["status"] == "ready", 30, "a whole ledger")
    assert codes(replicas.submit_many(3)) == {"too_many_tasks": 3}
    assert replicas.end_all() == 12
    until(lambda: replicas.open_tasks() == 0, 30, "an empty ledger")
    # The view still says that they wait; what ended stays ended.
    replicas.redis.client().delete("atelier:ledger:whole")
    until(lambda: replicas.redis.client().get("atelier:ledger:whole") == "whole", 30, "another pass")
    assert replicas.open_tasks() == 0


def test_without_a_status_api_to_ask_it_says_so(replicas: Reconciled) -> None:
    replicas.start()
    replicas.restart_ledger()
    until(lambda: replicas.readiness()["status"] == "degraded", 30, "the warning")
    assert "heal by events only" in replicas.readiness()["checks"]["reconcile"]
    assert "ledger_heals_by_events_only" in (replicas.folder / "ledger.log").read_text()
