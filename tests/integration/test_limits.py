"""Two gateway processes, one ledger: limits hold over both, and when the ledger goes and comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shared.messaging.topology import GATEWAY_LEDGER
from tests.support.replicas import WORK, Replicas, codes
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.processes import ProcessGuard
    from tests.support.rabbit import RabbitServer
    from tests.support.redis_server import RedisServer

CLIENTS = 32


@pytest.fixture
def replicas(
    rabbit: RabbitServer, ledger_redis: RedisServer, process_guard: ProcessGuard, tmp_path: Path
) -> Iterator[Replicas]:
    replicas = Replicas(rabbit, ledger_redis, process_guard, tmp_path, clients=CLIENTS)
    yield replicas
    replicas.stop()


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
