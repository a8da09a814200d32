"""Clients take their tasks back, and try them again, on real parts; replicas are asked by their own ports."""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from time import sleep
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import redis

from shared.domain.task import TaskState
from shared.storage.records import TaskRecords, task_prefix
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.native import NativeStack

SECONDS = 60
WORKER = "worker-simulated"
LONG = 1000  # steps of 50 ms each
RACES = 40


class Client:
    """Asks one of the status APIs, and reads a worker's log."""

    def __init__(self, stack: NativeStack) -> None:
        self.stack = stack
        self.records = TaskRecords(stack.store)
        self.log: Path = stack.stack.site.layout.logs / f"{WORKER}.log"
        key = stack.stack.demo_info.keys["standard"]
        ports = stack.stack.site.ports
        self._apis, self._gateways = (
            [
                httpx.Client(base_url=f"http://127.0.0.1:{port}", headers={"X-API-Key": key}, timeout=SECONDS)
                for port in group
            ]
            for group in (ports.status_apis, ports.gateways)
        )

    def close(self) -> None:
        for each in (*self._apis, *self._gateways):
            each.close()

    def submit(self, steps: int) -> str:
        answer = self.stack.post("/api/v1/generate", {"model": "simulated", "prompt": "a lake", "steps": steps})
        assert answer.status_code == 202, answer.text
        return str(answer.json()["task_id"])

    def cancel(self, task_id: str, api: int = 0) -> httpx.Response:
        return self._apis[api].delete(f"/api/v1/tasks/{task_id}")

    def retry(self, task_id: str, gateway: int = 0) -> httpx.Response:
        return self._gateways[gateway].post(f"/api/v1/tasks/{task_id}/retry")

    def get(self, task_id: str, api: int = 1, **query: int) -> dict[str, Any]:
        answer = self._apis[api].get(f"/api/v1/tasks/{task_id}", params=query)
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def said(self, message: str, task_id: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if task_id in line]
        return [line for line in lines if line["message"] == message]

    def keys(self, task_id: str) -> set[str]:
        return {key.removeprefix(task_prefix(task_id)) for key in self.stack.store.keys(task_prefix(task_id))}

    def place(self, task_id: str) -> str | None:
        """What the gateways' ledger says of a task that is open."""
        url = (self.stack.stack.site.layout.secrets / "redis.url").read_text().strip()
        with redis.Redis.from_url(url, decode_responses=True) as client:
            record = client.hget("atelier:ledger:tasks", task_id)
        assert record is None or isinstance(record, str)
        return record


@pytest.fixture
def client(stack: NativeStack) -> Iterator[Client]:
    client = Client(stack)
    yield client
    client.close()


def at_once(ask: Callable[[str, int], httpx.Response], task_id: str) -> Iterator[httpx.Response]:
    """The answers of both replicas, asked at the same time."""
    together = Barrier(2)

    def one(replica: int) -> httpx.Response:
        together.wait()
        return ask(task_id, replica)

    with ThreadPoolExecutor(2) as pool:
        return pool.map(one, range(2))


def test_a_queued_task_that_is_cancelled_never_runs_even_when_the_broker_stops_in_between(client: Client) -> None:
    client.stack.stack.stop_program(WORKER)
    task_id = client.submit(steps=1)
    until(lambda: client.get(task_id)["state"] == "queued", SECONDS, "the queued task")
    client.stack.stack.stop_program("rabbitmq")
    answer = client.cancel(task_id)
    assert (answer.status_code, answer.json()["state"]) == (202, "cancelled")
    assert client.get(task_id) == answer.json()
    client.stack.stack.start_program("rabbitmq")
    client.stack.stack.start_program(WORKER)
    until(lambda: client.said("delivery_taken", task_id), SECONDS, "the cancelled task's delivery")
    until(lambda: client.place(task_id) is None, SECONDS, "its place")
    until(lambda: client.stack.queue_depths().get("tasks.simulated", 0) == 0, SECONDS, "an empty queue")
    assert client.said("task_started", task_id) == []
    assert "outcome.json" in client.keys(task_id)
    assert client.records.outcome(task_id).artifacts == ()  # type: ignore[union-attr] # it is there: see above
    assert not [key for key in client.keys(task_id) if not key.endswith(".json")]
    assert client.get(task_id) == answer.json()


def test_a_running_task_that_is_cancelled_stops_within_a_step(client: Client) -> None:
    task_id = client.submit(steps=LONG)
    until(lambda: client.get(task_id)["progress"]["step"] > 0, SECONDS, "a step of the running task")
    assert client.place(task_id) is not None
    answer = client.cancel(task_id)
    assert (answer.status_code, answer.json()["state"]) == (202, "cancelled")
    until(lambda: client.said("task_settled", task_id), SECONDS, "the end of the computation")
    # At its next step: the child was asked, and not killed.
    (stopped,) = client.said("job_interrupted", task_id)
    assert stopped["error.code"] == "cancelled"
    assert not client.said("runner_unresponsive", task_id)
    until(lambda: client.place(task_id) is None, SECONDS, "its place")
    assert client.records.outcome(task_id).started_at is not None  # type: ignore[union-attr] # it has ended
    assert {key for key in client.keys(task_id) if not key.endswith(".json")} == set()
    after = client.get(client.submit(steps=1), wait=30)
    assert after["state"] == "succeeded"


def test_a_cancel_and_a_success_that_race_agree_with_the_one_outcome(client: Client) -> None:
    source = random.Random(20261121)  # noqa: S311 - when the cancel comes
    ends: dict[str, int] = {}
    for _ in range(RACES):
        task_id = client.submit(steps=1)
        sleep(source.uniform(0.0, 0.12))
        answer = client.cancel(task_id)
        outcome = client.records.outcome(task_id)
        assert outcome is not None
        state = answer.json()["state"]
        assert (answer.status_code, state) in {(202, "cancelled"), (409, "succeeded")}
        assert outcome.state == state == client.get(task_id, wait=30)["state"]
        ends[state] = ends.get(state, 0) + 1
    assert set(ends) == {TaskState.CANCELLED, TaskState.SUCCEEDED}, ends


def test_two_cancels_at_once_on_two_replicas_are_one(client: Client) -> None:
    for _ in range(10):
        task_id = client.submit(steps=LONG)
        first, second = at_once(client.cancel, task_id)
        assert (first.status_code, second.status_code) == (202, 202)
        # The news of its start may come round between the two looks at the task.
        assert first.json() | {"started_at": None} == second.json() | {"started_at": None}
        outcome = client.records.outcome(task_id)
        assert outcome is not None
        assert outcome.state is TaskState.CANCELLED


def test_a_task_that_was_cancelled_is_tried_again_once_however_often_that_is_asked(client: Client) -> None:
    client.stack.stack.stop_program(WORKER)
    task_id = client.submit(steps=1)
    assert client.retry(task_id).json()["code"] in {"task_not_ended", "task_not_found"}  # the ledger may lag
    until(lambda: client.retry(task_id).json()["code"] == "task_not_ended", SECONDS, "the gateways' ledger")
    assert client.cancel(task_id).status_code == 202
    first, second = at_once(client.retry, task_id)
    assert (first.status_code, second.status_code) == (202, 202), (first.text, second.text)
    again = first.json()["task_id"]
    assert again == second.json()["task_id"] == client.retry(task_id, 1).json()["task_id"] != task_id
    new = client.get(again)  # at once, though its id is as old as the old task's end
    assert (new["state"], new["retry_of"]) == ("queued", task_id)
    assert (new["seed"], new["params"]) == (client.get(task_id)["seed"], client.get(task_id)["params"])
    until(lambda: client.get(task_id)["retried_as"] == again, SECONDS, "the old task's link")
    client.stack.stack.start_program(WORKER)
    assert client.get(again, wait=30)["state"] == "succeeded"
    until(lambda: client.stack.queue_depths().get("tasks.simulated", 0) == 0, SECONDS, "the copies' end")
    assert len(client.said("task_started", again)) == 1
    ended = client.retry(task_id)
    assert (ended.status_code, ended.json()["task_id"], ended.json()["state"]) == (200, again, "succeeded")
    assert client.retry(again).json()["code"] == "task_succeeded"


def test_a_task_that_expired_is_tried_again(client: Client) -> None:
    client.stack.stack.stop_program(WORKER)
    body = {"model": "simulated", "prompt": "a lake", "start_within": 1.0}
    task_id = str(client.stack.post("/api/v1/generate", body).json()["task_id"])
    assert client.get(task_id, wait=30)["state"] == "expired"
    client.stack.stack.start_program(WORKER)
    again = client.retry(task_id).json()["task_id"]
    assert client.get(again, wait=30)["state"] == "succeeded"
