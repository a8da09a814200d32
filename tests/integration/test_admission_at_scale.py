"""Four gateways, 64 clients, thousands of submits: exact by the ledger, bounded without it, clear when blocked."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import pytest

from shared.messaging.topology import GATEWAY_LEDGER
from tests.support.replicas import WORK, Replicas, codes
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

    from tests.support.processes import ProcessGuard
    from tests.support.rabbit import RabbitServer
    from tests.support.redis_server import RedisServer

GATEWAYS: Final = 4
CLIENTS: Final = 64
BOUND: Final = 1000


@pytest.fixture
def replicas(
    rabbit: RabbitServer, ledger_redis: RedisServer, process_guard: ProcessGuard, tmp_path: Path
) -> Iterator[Replicas]:
    replicas = Replicas(rabbit, ledger_redis, process_guard, tmp_path, count=GATEWAYS, clients=CLIENTS)
    yield replicas
    replicas.stop()


def accepted_ids(answers: list[httpx.Response]) -> list[str]:
    return [answer.json()["task_id"] for answer in answers if answer.status_code == 202]


def check_refusals(answers: list[httpx.Response]) -> None:
    for answer in answers:
        if answer.status_code != 202:
            assert answer.status_code in {429, 503}, answer.text
            assert 1 <= int(answer.headers["Retry-After"]) <= 3600


def check_nothing_is_left(replicas: Replicas, count: int) -> None:
    until(lambda: replicas.rabbit.depth(GATEWAY_LEDGER) == 0, 60, "the ledger to hear of every task")
    assert replicas.end_all() == count
    until(lambda: replicas.open_tasks() == 0, 60, "an empty ledger")


def test_a_rate_is_exact_over_four_gateways_and_nobody_is_taken_twice(replicas: Replicas) -> None:
    replicas.start(rates="requests_per_hour = 300")
    answers = replicas.submit_many(900)
    ids = accepted_ids(answers)
    # A window refills by one request in 12 s, and this takes seconds.
    assert 300 <= len(ids) <= 301
    assert len(set(ids)) == len(ids) == replicas.rabbit.depth(WORK)
    check_refusals(answers)
    check_nothing_is_left(replicas, len(ids))


def test_two_thousand_at_once_for_a_thousand_places(replicas: Replicas) -> None:
    replicas.start(queued=10_000, MAX_WAITING=str(BOUND), VIP_RESERVE="0")
    answers = replicas.submit_many(2 * BOUND)
    assert codes(answers) == {"accepted": BOUND, "queue_full": BOUND}
    ids = accepted_ids(answers)
    assert len(set(ids)) == BOUND == replicas.rabbit.depth(WORK)
    check_refusals(answers)
    check_nothing_is_left(replicas, BOUND)


def test_the_ledger_dies_in_the_middle_and_comes_back(replicas: Replicas) -> None:
    replicas.start(queued=10_000, MAX_WAITING=str(BOUND), VIP_RESERVE="0", REDIS_TIMEOUT_SECONDS="0.2")
    answers: list[httpx.Response] = []
    half, rest = threading.Event(), threading.Event()

    def submit(number: int) -> None:
        if number == 300:
            half.set()
        if number > 600:
            rest.wait(60)
        answers.append(replicas.submit(number))

    with ThreadPoolExecutor(CLIENTS) as pool:
        waiting = pool.map(submit, range(900))
        assert half.wait(60)
        replicas.redis.kill()
        replicas.redis.start()
        rest.set()
        list(waiting)
    ids = accepted_ids(answers)
    assert len(set(ids)) == len(ids) == replicas.rabbit.depth(WORK)
    assert len(ids) == 900  # fewer than the bound: nobody is refused because the ledger is away
    check_nothing_is_left(replicas, len(ids))


def test_without_the_ledger_the_bound_holds_but_for_what_others_just_took(replicas: Replicas) -> None:
    replicas.start(queued=10_000, MAX_WAITING=str(BOUND), VIP_RESERVE="0", REDIS_TIMEOUT_SECONDS="0.2")
    assert codes(replicas.submit_many(GATEWAYS)) == {"accepted": GATEWAYS}
    replicas.redis.kill()
    try:
        answers = replicas.submit_many(2 * BOUND)
        found = codes(answers)
        check_refusals(answers)
        assert set(found) == {"accepted", "queue_full"}
        ids = accepted_ids(answers)
        assert len(set(ids)) + GATEWAYS == replicas.rabbit.depth(WORK)
        # Each counts its own and asks the broker for the rest, which is old by what the others took meanwhile.
        assert BOUND <= len(ids) + GATEWAYS <= 1.25 * BOUND
    finally:
        replicas.redis.start()


def test_a_broker_out_of_disk_refuses_at_once_and_takes_again_when_there_is_room(replicas: Replicas) -> None:
    replicas.start(queued=10_000)
    assert codes(replicas.submit_many(100)) == {"accepted": 100}
    replicas.rabbit.ctl("set_disk_free_limit", "1000000GB")
    try:

        def blocked() -> bool:
            return all(replicas.submit(number).status_code == 503 for number in range(GATEWAYS))

        until(blocked, 60, "the broker to block every gateway")
        before = replicas.rabbit.depth(WORK)
        answers = replicas.submit_many(200)
        assert set(codes(answers)) == {"broker_unavailable"}
        check_refusals(answers)
        assert replicas.rabbit.depth(WORK) == before
    finally:
        replicas.rabbit.ctl("set_disk_free_limit", "1MB")

    def open_again() -> bool:
        return all(replicas.submit(number).status_code == 202 for number in range(GATEWAYS))

    until(open_again, 60, "every gateway to take tasks again")
    check_nothing_is_left(replicas, replicas.rabbit.depth(WORK))
