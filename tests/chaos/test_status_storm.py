"""Tasks flow while consumers die, PostgreSQL restarts and a status API goes: nothing that is told is lost."""

from __future__ import annotations

import itertools
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

import httpx
import orjson
import pytest

from infra.native.credentials import tenants_url
from infra.native.errors import StackError
from shared.auth.store.sql import open_store
from shared.contracts.base import decode
from shared.contracts.outcome import Outcome
from tests.chaos.followers import TenantFollower
from tests.support.native import NativeStack
from tests.support.receiver import Receiver
from tests.support.tenants import administration
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.postgres import PostgresServer

KILL_EVERY_SECONDS: Final = 5.0
SETTLE_SECONDS: Final = 240
TENANT: Final = "demo-standard"


@pytest.fixture
def stack(tmp_path: Path, postgres_server: PostgresServer) -> Iterator[NativeStack]:
    database = postgres_server.create_database()
    stack = NativeStack(tmp_path, ("simulated",), status_consumers=2, status_database=database)
    stack.start()
    yield stack
    stack.stop()


@pytest.mark.parametrize(
    "tasks",
    [pytest.param(60, id="short"), pytest.param(200, id="long", marks=[pytest.mark.faults, pytest.mark.timeout(900)])],
)
def test_answers_callbacks_and_streams_survive_the_deaths_of_all_who_tell_them(
    stack: NativeStack, postgres_server: PostgresServer, tasks: int
) -> None:
    tenants = open_store(tenants_url(stack.stack.site.layout))
    secret = administration(tenants).create_webhook_secret(TENANT).text
    tenants.close()
    followers = [
        TenantFollower(stack.stack.settings.base_url, stack.stack.demo_info.keys["standard"]) for _ in range(4)
    ]
    with Receiver() as receiver:
        for follower in followers:
            follower.start()
        until(lambda: all(follower.connections for follower in followers), 60, "the streams")
        began = time.monotonic()
        with ThreadPoolExecutor(2) as pool:
            submits = [pool.submit(submit, stack, receiver.url, number, tasks) for number in range(tasks)]
            kills = harass(stack, postgres_server, lambda: ended(stack) >= tasks)
            accepted = [each.result() for each in submits]
        seconds = time.monotonic() - began
        assert len(set(accepted)) == tasks
        outcomes = {task_id: outcome_of(stack, task_id) for task_id in accepted}
        for task_id, outcome in outcomes.items():
            until(lambda t=task_id, o=outcome: agrees(stack, t, o), SETTLE_SECONDS, f"the answer of {task_id}")  # type: ignore[misc] # mypy cannot infer a lambda with a default
        until(lambda: called_back(receiver) >= set(accepted), SETTLE_SECONDS, "a callback of every task")
        for follower in followers:
            until(lambda f=follower: f.ended() >= set(accepted), SETTLE_SECONDS, "every end in every stream")  # type: ignore[misc] # as above
            follower.stop()
        assert all(received.verifies(secret) for received in receiver.received)
        assert [follower.resyncs for follower in followers] == [0] * len(followers)
        for follower in followers:
            ids = [event_id for event_id, _, _ in follower.events]
            assert len(set(ids)) == len(ids)
        times_called = Counter(Counter(receiver.ids()).values())
    say(
        tasks=tasks,
        seconds=round(seconds),
        faults=dict(kills),
        ends=dict(Counter(outcome.state.value for outcome in outcomes.values())),
        callbacks_by_how_often_they_came=dict(times_called),
        streams_opened=[follower.connections for follower in followers],
    )


def submit(stack: NativeStack, url: str, number: int, tasks: int) -> str:
    """Accepted in the end; two thirds come while the first run."""
    if number > tasks // 3:
        time.sleep(0.2)
    body = {"model": "simulated", "prompt": "a quay", "seed": number, "steps": 4, "callback_url": f"{url}/hook"}

    def accepted() -> str | None:
        answer = stack.post_keyed("/api/v1/generate", body)
        return str(answer.json()["task_id"]) if answer.status_code == httpx.codes.ACCEPTED else None

    task_id = until(accepted, 60, "an accepted submit")
    assert task_id is not None
    return task_id


def harass(stack: NativeStack, postgres: PostgresServer, is_over: Any) -> Counter[str]:  # noqa: ANN401 - a predicate
    """A consumer dies every few seconds, PostgreSQL once, and a status API for good, until it is over."""
    done: Counter[str] = Counter()
    for turn in itertools.count():
        if turn >= 4 and is_over():
            return done
        victim = ("status-consumer", "status-consumer-2")[turn % 2]
        try:
            stack.stack.kill(victim)
            done["consumers killed"] += 1
        except StackError:
            done["consumers found dead"] += 1  # its supervisor is about to start it
        if turn == 1:
            postgres.kill()
            time.sleep(1)
            postgres.start()
            done["PostgreSQL restarted"] += 1
        if turn == 2:
            stack.stack.stop_program("status-api-2")
            done["status APIs stopped"] += 1
        time.sleep(KILL_EVERY_SECONDS)
    raise AssertionError


def ended(stack: NativeStack) -> int:
    return sum(key.endswith("/outcome.json") for key in stack.store.keys("tasks/"))


def outcome_of(stack: NativeStack, task_id: str) -> Outcome:
    return decode(Outcome, stack.store.get(f"tasks/{task_id}/outcome.json"))


def agrees(stack: NativeStack, task_id: str, outcome: Outcome) -> bool:
    """Whether the public answer is what the bucket holds."""
    answer = stack.get(f"/api/v1/tasks/{task_id}")
    if answer.status_code != httpx.codes.OK:
        return False
    body = answer.json()
    shown = (body["state"], body["attempt"], [each["sha256"] for each in body["artifacts"]])
    return bool(shown == (outcome.state.value, outcome.attempt, [each.sha256 for each in outcome.artifacts]))


def called_back(receiver: Receiver) -> set[str]:
    return {orjson.loads(received.body)["data"]["task_id"] for received in list(receiver.received)}


def say(**figures: object) -> None:
    """For the record of the run."""
    sys.stderr.write("\n" + "\n".join(f"  {name}: {value}" for name, value in figures.items()) + "\n")
