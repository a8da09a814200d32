"""Two gateway processes, one ledger: limits hold over both, and when the ledger goes and comes back."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import pytest

from shared.clock import utc_now
from shared.contracts.base import decode
from shared.contracts.event import ended_event
from shared.contracts.task import TaskMessage
from shared.messaging import messages
from shared.messaging.publisher import ThreadedPublisher
from shared.messaging.topology import GATEWAY_LEDGER, work_queue
from tests.integration.test_gateway_process import ROOT, GatewayProcess
from tests.support.builders import make_outcome
from tests.support.tenants import tenant_environment
from tests.support.waiting import until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

    from tests.support.processes import ProcessGuard
    from tests.support.rabbit import RabbitServer
    from tests.support.redis_server import RedisServer

PLANS: Final = """
[standard]
lane = "standard"
weight = 1.0
head_start = 0.0
{rates}
concurrency = 8
queued = {queued}
gpu_seconds_per_day = {day}
max_pixels = 4096
max_frames = 1
models = "*"
"""
WORK: Final = work_queue("simulated")
CLIENTS: Final = 32


class Replicas:
    """Two gateways with the same tenants, plans, broker and Redis."""

    def __init__(self, rabbit: RabbitServer, redis: RedisServer, guard: ProcessGuard, folder: Path) -> None:
        self.rabbit, self.redis, self.guard, self.folder = rabbit, redis, guard, folder
        self.gateways = [GatewayProcess(guard, folder, rabbit.url("gateway")) for _ in range(2)]
        self.processes: list[subprocess.Popen[bytes]] = []
        self.tenants, (self.key,) = tenant_environment(folder, "acme")

    def start(self, *, rates: str = "", queued: int = 1000, day: float = 1e9, **settings: str) -> None:
        plans = self.folder / "plans.toml"
        plans.write_text(PLANS.format(rates=rates, queued=queued, day=day))
        changes = {
            **self.tenants,
            "ATELIER_PLANS_FILE": str(plans),
            "ATELIER_REDIS_URL": self.redis.url,
            # A machine that runs two gateways, a broker and their clients on two cores answers late at times.
            "ATELIER_REDIS_TIMEOUT_SECONDS": "1",
            # Every submit here is alike, and each shall count.
            "ATELIER_REPEAT_WINDOW_SECONDS": "0",
            **{f"ATELIER_{name}": value for name, value in settings.items()},
        }
        self.processes = [gateway.spawn(**changes) for gateway in self.gateways]
        for gateway in self.gateways:
            until(gateway.ready, 30, f"a gateway (see {gateway.log})")
        environment = {
            "PATH": gateway.environment["PATH"],
            "ATELIER_AMQP_URL": self.rabbit.url("gateway"),
            "ATELIER_REDIS_URL": self.redis.url,
        }
        command = [sys.executable, "-m", "services.gateway.ledger"]
        self.processes.append(self.guard.spawn(command, log=self.folder / "ledger.log", env=environment, cwd=ROOT))

    def submit(self, number: int = 0, **body: Any) -> httpx.Response:  # noqa: ANN401 - any field
        document = {"prompt": "a lake", "model": "simulated", "seed": 1, **body}
        client = self.gateways[number % 2].client
        return client.post("/api/v1/generate", json=document, headers={"X-API-Key": self.key})

    def submit_many(self, count: int) -> list[httpx.Response]:
        with ThreadPoolExecutor(CLIENTS) as pool:
            return list(pool.map(self.submit, range(count)))

    def end_all(self) -> int:
        """Take every waiting task and tell that it succeeded, as a worker does."""
        publisher = ThreadedPublisher(self.rabbit.url("worker"), "test-worker")
        publisher.start()
        ended = 0
        with self.rabbit.connect() as connection:
            channel = connection.channel()
            while True:
                method, _, body = channel.basic_get(WORK, auto_ack=True)
                if method is None:
                    break
                task = decode(TaskMessage, body or b"")
                outcome = make_outcome(task=task, artifacts=(), started_at=utc_now(), ended_at=utc_now())
                publisher.publish(messages.event(ended_event(outcome)), timeout=10)
                ended += 1
        publisher.stop()
        return ended

    def open_tasks(self) -> int:
        return int(self.redis.client().hlen("atelier:ledger:tasks"))


@pytest.fixture
def replicas(
    rabbit: RabbitServer, ledger_redis: RedisServer, process_guard: ProcessGuard, tmp_path: Path
) -> Iterator[Replicas]:
    replicas = Replicas(rabbit, ledger_redis, process_guard, tmp_path)
    yield replicas
    for gateway in replicas.gateways:
        gateway.client.close()
    for process in replicas.processes:
        process_guard.kill(process)


def codes(answers: list[httpx.Response]) -> dict[str, int]:
    found: dict[str, int] = {}
    for answer in answers:
        code = "accepted" if answer.status_code == 202 else answer.json()["code"]
        found[code] = found.get(code, 0) + 1
    return found


def test_a_rate_is_exact_over_both_gateways_and_says_what_is_left(replicas: Replicas) -> None:
    replicas.start(rates="requests_per_hour = 40")
    answers = replicas.submit_many(100)
    assert codes(answers) == {"accepted": 40, "rate_limited": 60}
    assert replicas.rabbit.depth(WORK) == 40
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert 80 < int(refused.headers["Retry-After"]) <= 90
    assert refused.headers["RateLimit-Policy"] == '"3600s";q=40;w=3600'
    assert refused.headers["RateLimit"].startswith('"3600s";r=0;t=')
    assert refused.json()["error"]["type"] == "rate_limit_error"
    left = sorted(int(a.headers["RateLimit"].split("r=")[1].split(";")[0]) for a in answers if a.status_code == 202)
    assert left == list(range(40))


def test_the_bound_of_a_model_is_exact_and_the_ledger_returns_to_nothing(replicas: Replicas) -> None:
    replicas.start(MAX_WAITING="60", VIP_RESERVE="10")
    answers = replicas.submit_many(150)
    assert codes(answers) == {"accepted": 50, "queue_full": 100}
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in answers if answer.status_code == 503)
    assert replicas.rabbit.depth(WORK) == 50
    assert replicas.end_all() == 50
    until(lambda: replicas.open_tasks() == 0, 30, "an empty ledger")
    assert replicas.submit().status_code == 202


def test_a_tenants_cap_and_its_days_budget_have_codes_of_their_own(replicas: Replicas) -> None:
    replicas.start(queued=3, day=5.0)
    assert codes(replicas.submit_many(6)) == {"accepted": 3, "too_many_tasks": 3}
    assert replicas.submit(steps=1200).json()["code"] == "quota_exceeded"
    assert replicas.submit(width=128, height=128).json()["code"] == "exceeds_plan"


def test_without_the_ledger_each_gateway_decides_by_the_brokers_depth(replicas: Replicas) -> None:
    replicas.start(MAX_WAITING="20", VIP_RESERVE="0", REDIS_TIMEOUT_SECONDS="0.2")
    assert codes(replicas.submit_many(10)) == {"accepted": 10}
    replicas.redis.kill()
    try:
        answers = replicas.submit_many(60)
        found = codes(answers)
        # Each process counts its own since it asked the broker last; what was on its way then goes over the bound.
        assert 10 <= found["accepted"] <= 20 + CLIENTS
        assert set(found) == {"accepted", "queue_full"}
        readiness = replicas.gateways[0].client.get("/readyz")
        assert (readiness.status_code, readiness.json()["status"]) == (200, "degraded")
    finally:
        replicas.redis.start()
    waiting = replicas.rabbit.depth(WORK)
    assert replicas.end_all() == waiting
    until(lambda: replicas.rabbit.depth(GATEWAY_LEDGER) == 0, 30, "the ledger process")

    def healed() -> bool:
        replicas.submit_many(2)
        states = [gateway.client.get("/readyz").json()["status"] for gateway in replicas.gateways]
        return states == ["ready", "ready"]

    until(healed, 30, "the ledger's return")
