"""Requests that are sent again, to two gateways with one broker and one Redis."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from shared.contracts.base import decode
from shared.contracts.task import TaskMessage
from shared.domain.task import TaskState
from tests.support.proxy import TcpProxy
from tests.support.replicas import WORK, Replicas
from tests.support.s3 import ACCESS_KEY, SECRET_KEY
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.matrix import FaultSite
    from tests.support.processes import ProcessGuard
    from tests.support.rabbit import RabbitServer
    from tests.support.redis_server import RedisServer

LAKE = {"prompt": "a lake", "model": "simulated"}
SETTINGS = {"REPEAT_WINDOW_SECONDS": "30", "REDIS_TIMEOUT_SECONDS": "0.3"}


class Site(Replicas):
    """The first gateway reaches the broker through a proxy."""

    def __init__(self, rabbit: RabbitServer, redis: RedisServer, guard: ProcessGuard, folder: Path) -> None:
        super().__init__(rabbit, redis, guard, folder)
        self.proxy = TcpProxy(rabbit.port)
        url = rabbit.url("gateway").replace(f":{rabbit.port}/", f":{self.proxy.port}/")
        self.gateways[0].environment["ATELIER_AMQP_URL"] = url

    def begin(self, **settings: str) -> None:
        self.start(rates="", queued=1000, day=1e9, **{**SETTINGS, **settings})

    def post(self, gateway: int, body: dict[str, Any] = LAKE, key: str | None = None, retry: int = 0) -> httpx.Response:
        headers = {"X-API-Key": self.key, "x-stainless-retry-count": str(retry)}
        if key is not None:
            headers["Idempotency-Key"] = key
        return self.gateways[gateway].client.post("/api/v1/generate", json=body, headers=headers)

    def published(self) -> list[TaskMessage]:
        """Take what waits for a worker."""
        found: list[TaskMessage] = []
        with self.rabbit.connect() as connection:
            channel = connection.channel()
            while True:
                method, _, body = channel.basic_get(WORK, auto_ack=True)
                if method is None:
                    return found
                found.append(decode(TaskMessage, body or b""))


@pytest.fixture
def site(
    rabbit: RabbitServer, ledger_redis: RedisServer, process_guard: ProcessGuard, tmp_path: Path
) -> Iterator[Site]:
    site = Site(rabbit, ledger_redis, process_guard, tmp_path)
    yield site
    site.proxy.close()
    for gateway in site.gateways:
        gateway.client.close()
    for process in site.processes:
        process_guard.kill(process)


def test_an_answer_comes_again_from_the_other_gateway(site: Site) -> None:
    site.start(rates="", queued=1, day=1e9, **SETTINGS)
    first = site.post(0, key="k")
    assert first.status_code == 202
    assert site.post(1, key="another").json()["code"] == "too_many_tasks"
    again = site.post(1, key="k")
    assert (again.status_code, again.content) == (202, first.content)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert site.post(1, {**LAKE, "seed": 1}, key="k").json()["code"] == "idempotency_key_reused"
    assert len(site.published()) == 1
    (name,) = (str(name) for name in site.redis.client().keys("atelier:once:*"))
    assert re.fullmatch(r"atelier:once:key:[0-9a-f]{64}", name)


def test_of_64_clients_with_one_key_one_makes_a_task(site: Site) -> None:
    site.begin()

    def client(number: int) -> httpx.Response:
        def answered() -> list[httpx.Response]:
            answer = site.post(number % 2, key="k")
            if answer.status_code == 202:
                return [answer]
            assert answer.json()["code"] == "idempotency_in_flight", answer.text
            assert int(answer.headers["Retry-After"]) >= 1
            return []

        return until(answered, 60, "an answer")[0]

    with ThreadPoolExecutor(64) as pool:
        answers = list(pool.map(client, range(64)))
    (task,) = site.published()
    assert {answer.json()["task_id"] for answer in answers} == {task.task_id}
    assert sum("Idempotency-Replayed" not in answer.headers for answer in answers) == 1


def test_of_equal_requests_without_a_key_one_makes_a_task(site: Site) -> None:
    site.begin()
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda number: site.post(number % 2, {**LAKE, "seed": 9}), range(32)))
    assert {answer.status_code for answer in answers} == {202}
    (task,) = site.published()
    assert {answer.json()["task_id"] for answer in answers} == {task.task_id}
    ids = {site.post(number % 2).json()["task_id"] for number in range(4)}
    assert len(ids) == 4
    assert len(site.published()) == 4


def test_a_gateway_that_dies_before_its_answer_leaves_one_task_and_one_outcome(
    site: Site, fault_bench: FaultSite
) -> None:
    site.begin()
    site.proxy.hold_answers()
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(site.post, 0, LAKE, "k")
        until(lambda: site.rabbit.depth(WORK) == 1, 20, "the publish")
        meanwhile = site.post(1, key="k")
        site.guard.kill(site.processes[0])
        with pytest.raises(httpx.TransportError):
            lost.result()
    assert (meanwhile.status_code, meanwhile.json()["code"]) == (409, "idempotency_in_flight")
    assert 1 <= int(meanwhile.headers["Retry-After"]) <= 17

    answer = meanwhile

    def taken_over() -> bool:
        nonlocal answer
        answer = site.post(1, key="k")
        return answer.status_code == 202

    until(taken_over, 30, "the record to be stale")
    first, copy = site.published()
    assert first.task_id == copy.task_id == answer.json()["task_id"]
    assert first.params == copy.params
    assert site.post(1, key="k").json() == answer.json()
    assert site.published() == []
    for message in (first, copy):
        fault_bench.send(message)
    fault_bench.start()
    fault_bench.await_line("task_settled", count=2)
    assert fault_bench.outcome(first).attempt == 1
    assert fault_bench.attempts(first) == ["claim-1.json"]
    assert len(fault_bench.lines("task_started")) == 1


@pytest.mark.parametrize(("key", "retry"), [("k", 0), (None, 1)], ids=["keyed", "a client's own retry"])
def test_an_unconfirmed_submit_goes_on_under_its_id_through_the_other_gateway(
    site: Site, key: str | None, retry: int
) -> None:
    site.begin(PUBLISH_TIMEOUT_SECONDS="1")
    site.proxy.hold_answers()
    unknown = site.post(0, key=key)
    assert (unknown.status_code, unknown.json()["code"]) == (503, "publish_unknown")
    answer = site.post(1, key=key, retry=retry)
    assert (answer.status_code, answer.json()["task_id"]) == (202, unknown.json()["task_id"])
    first, copy = site.published()
    assert (first.task_id, first.params) == (copy.task_id, copy.params)


def test_without_redis_keys_are_refused_and_the_others_accepted(site: Site) -> None:
    site.begin()
    assert site.post(0, key="k").status_code == 202
    site.redis.kill()
    try:
        for gateway in (0, 1):
            refused = site.post(gateway, key="k")
            assert (refused.status_code, refused.json()["code"]) == (503, "idempotency_unavailable")
            assert int(refused.headers["Retry-After"]) >= 1
            assert [site.post(gateway).status_code for _ in range(3)] == [202] * 3
            assert site.post(gateway, {**LAKE, "seed": 3}).status_code == 202
    finally:
        site.redis.start()
    assert len(site.published()) == 1 + 8
    until(lambda: site.post(0, key="new").status_code == 202, 20, "Redis's return")


def test_an_unconfirmed_submit_that_no_request_can_complete_never_runs(site: Site, fault_bench: FaultSite) -> None:
    """The broker has the task, and its answer is lost: the client is told that nothing will come of it."""
    site.begin(PUBLISH_TIMEOUT_SECONDS="1", **bucket_of(fault_bench))
    site.proxy.hold_answers()
    with ThreadPoolExecutor(8) as pool:
        # Neither a key nor a count of retries: no later request could say that it is this one again.
        client, headers = site.gateways[0].client, {"X-API-Key": site.key}
        answers = list(
            pool.map(lambda _: client.post("/generate", json={"prompt": "a lake"}, headers=headers), range(8))
        )
    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(503, "publish_voided")}
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in answers)
    tasks = site.published()
    assert len(tasks) == 8
    for task in tasks:
        assert fault_bench.outcome(task).state is TaskState.CANCELLED
        fault_bench.send(task)
    fault_bench.start()
    fault_bench.await_line("task_settled", count=8)
    assert fault_bench.lines("task_started") == []


def bucket_of(site: FaultSite) -> dict[str, str]:
    """The variables of the workers' bucket, as a gateway has them."""
    return {
        "S3_ENDPOINT": site.s3_endpoint,
        "S3_BUCKET": site.bucket,
        "S3_ACCESS_KEY": ACCESS_KEY,
        "S3_SECRET_KEY": SECRET_KEY,
    }
