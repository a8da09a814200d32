"""Requests for work that was done before, at the real application over a bucket in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from services.status.store.memory import MemoryTaskViewStore
from shared.contracts.base import encode
from shared.domain.errors import BrokerUnavailableError
from shared.domain.task import EventType, TaskState
from shared.storage.records import TaskRecords
from shared.storage.work_index import WorkIndex
from tests.contract.work_index import make
from tests.support.builders import REVISION, make_outcome, make_report
from tests.unit.gateway.conftest import NOW

if TYPE_CHECKING:
    from werkzeug.test import TestResponse

    from shared.contracts.outcome import Outcome
    from shared.contracts.task import TaskMessage
    from tests.unit.gateway.conftest import Gateway

LAKE = {"prompt": "a lake", "model": "simulated", "seed": 7}
HIT, MISS, BYPASS = "atelier; hit", "atelier; fwd=miss", "atelier; fwd=bypass"


@pytest.fixture
def warm(gateway: Gateway) -> Gateway:
    """A gateway that has heard of a worker."""
    gateway.fleet.hear(encode(make_report(revision=REVISION)))
    return gateway


def post(gateway: Gateway, path: str = "/api/v1/generate", key: str | None = None, **changes: Any) -> TestResponse:  # noqa: ANN401 - any field
    # Each of its own: a repeat within seconds would be answered with the task itself.
    number = len(gateway.records.names())
    headers = {"Authorization": f"Bearer {key or gateway.key}", "Idempotency-Key": f"k{number}"}
    return gateway.client.post(path, json={**LAKE, **changes}, headers=headers)


def work(gateway: Gateway, task: TaskMessage, state: TaskState = TaskState.SUCCEEDED) -> Outcome:
    """What a worker does with a task, as far as the bucket shows it."""
    records = TaskRecords(gateway.store)
    if task.cache_key is not None:
        WorkIndex(records).lead(task.cache_key, task.task_id, NOW)
    artifacts = (make(gateway.store, task.task_id),) if state is TaskState.SUCCEEDED else ()
    return records.commit(make_outcome(task=task, state=state, artifacts=artifacts))


def test_finished_work_is_answered_at_once_with_a_task_of_its_own(warm: Gateway) -> None:
    first = post(warm)
    assert (first.status_code, first.headers["Cache-Status"]) == (202, MISS)
    (task,) = warm.tasks("simulated")
    made = work(warm, task)
    answer = post(warm)
    assert (answer.status_code, answer.headers["Cache-Status"]) == (200, HIT)
    body = answer.get_json()
    assert body["task_id"] != task.task_id
    assert (body["state"], body["seed"], body["model"]) == ("succeeded", 7, "simulated")
    url = f"/api/v1/tasks/{body['task_id']}/artifacts/0"
    assert body["result_url"] == body["artifacts"][0]["url"] == url
    assert body["artifacts"][0]["sha256"] == made.artifacts[0].sha256
    assert "key" not in body["artifacts"][0]
    # Nothing is queued; the end is in the bucket and told.
    assert warm.tasks("simulated") == [task]
    event = warm.events()[-1]
    assert (event.type, event.task_id) == (EventType.SUCCEEDED, body["task_id"])
    assert event.data.outcome == TaskRecords(warm.store).outcome(body["task_id"])
    assert event.data.outcome is not None
    assert event.data.outcome.artifacts == made.artifacts


def test_a_task_that_is_finished_at_once_is_called_back_all_the_same(warm: Gateway) -> None:
    post(warm)
    work(warm, warm.tasks("simulated")[0])
    assert post(warm, callback_url="https://example.com/hook").status_code == 200
    views = MemoryTaskViewStore()
    views.apply_events([warm.events()[-1]], seen_until=NOW)
    (notice,) = views.owed.values()
    assert (notice.url, notice.type) == ("https://example.com/hook", "task.succeeded")


def test_the_short_form_says_so_too(warm: Gateway) -> None:
    post(warm, "/generate")
    work(warm, warm.tasks("simulated")[0])
    answer = post(warm, "/generate")
    task_id = answer.get_json()["task_id"]
    assert answer.status_code == 200
    assert answer.get_json() == {
        "task_id": task_id,
        "status_url": f"/status/{task_id}",
        "state": "succeeded",
        "result_url": f"/api/v1/tasks/{task_id}/artifacts/0",
    }


def test_a_replay_of_such_an_answer_is_the_same_answer(warm: Gateway) -> None:
    post(warm)
    work(warm, warm.tasks("simulated")[0])
    headers = {**warm.headers, "Idempotency-Key": "mine"}
    first, again = (warm.client.post("/api/v1/generate", json=LAKE, headers=headers) for _ in range(2))
    assert (first.status_code, again.status_code) == (200, 200)
    assert first.data == again.data
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.headers["Cache-Status"] == HIT


def test_what_is_under_way_is_queued_again(warm: Gateway) -> None:
    assert [post(warm).status_code for _ in range(2)] == [202, 202]
    first, second = warm.tasks("simulated")
    assert first.cache_key is not None
    assert first.cache_key == second.cache_key
    WorkIndex(TaskRecords(warm.store)).lead(first.cache_key, first.task_id, NOW)
    assert post(warm).status_code == 202


@pytest.mark.parametrize("state", [TaskState.FAILED, TaskState.CANCELLED, TaskState.EXPIRED])
def test_only_a_success_is_a_result(warm: Gateway, state: TaskState) -> None:
    post(warm)
    work(warm, warm.tasks("simulated")[0], state)
    assert post(warm).headers["Cache-Status"] == MISS


@pytest.mark.parametrize(
    "changes", [{"seed": 8}, {"steps": 3}, {"prompt": "a lake."}, {"guidance": 2.5}, {"cache": "any"}]
)
def test_other_work_is_not_the_same(warm: Gateway, changes: dict[str, Any]) -> None:
    post(warm)
    work(warm, warm.tasks("simulated")[0])
    assert post(warm, **changes).headers["Cache-Status"] == MISS


@pytest.mark.parametrize("changes", [{"cache": "off"}, {"seed": None}, {"seed": None, "cache": "off"}])
def test_work_that_is_its_own_has_no_key(warm: Gateway, changes: dict[str, Any]) -> None:
    answer = post(warm, **changes)
    assert (answer.status_code, answer.headers["Cache-Status"]) == (202, BYPASS)
    assert warm.tasks("simulated")[0].cache_key is None


def test_whoever_takes_any_gets_any_and_its_seed(warm: Gateway) -> None:
    post(warm, seed=None, cache="any")
    (task,) = warm.tasks("simulated")
    work(warm, task)
    body = post(warm, seed=5, cache="any").get_json()
    assert (body["state"], body["seed"]) == ("succeeded", task.params.seed)


def test_a_wish_that_does_not_exist_is_refused(warm: Gateway) -> None:
    answer = post(warm, cache="always")
    assert (answer.status_code, answer.get_json()["errors"][0]["field"]) == (422, "cache")


def test_results_are_the_tenants_own(warm: Gateway) -> None:
    post(warm)
    work(warm, warm.tasks("simulated")[0])
    assert post(warm, key=warm.vip_key).headers["Cache-Status"] == MISS


def share(gateway: Gateway, tenant: str, results: str) -> str:
    """A key of a tenant whose plan says so."""
    return gateway.tenants.key_of(tenant, results=results)


def test_tenants_whose_plans_share_get_each_others_results_and_not_who_made_them(warm: Gateway) -> None:
    one, two, off = (share(warm, name, how) for name, how in (("a1", "shared"), ("a2", "shared"), ("a3", "off")))
    post(warm, key=one)
    (task,) = warm.tasks("simulated")
    assert task.cache_key is not None
    assert task.cache_key.startswith("shared/")
    work(warm, task)
    answer = post(warm, key=two)
    assert answer.headers["Cache-Status"] == HIT
    outcome = TaskRecords(warm.store).outcome(answer.get_json()["task_id"])
    assert outcome is not None
    assert outcome.task.tenant_id == "a2"
    assert "made_by" not in outcome.receipt
    assert post(warm, key=off).headers["Cache-Status"] == BYPASS
    assert post(warm).headers["Cache-Status"] == MISS


def test_while_workers_have_different_revisions_or_none_is_known_nothing_is_shared(gateway: Gateway) -> None:
    assert post(gateway).headers["Cache-Status"] == BYPASS
    gateway.fleet.hear(encode(make_report(worker="one", revision="r1")))
    assert post(gateway).headers["Cache-Status"] == MISS
    gateway.fleet.hear(encode(make_report(worker="two", revision="r2")))
    assert post(gateway).headers["Cache-Status"] == BYPASS
    gateway.fleet.hear(encode(make_report(worker="one", revision="r2")))
    answer = post(gateway)
    assert answer.headers["Cache-Status"] == MISS
    keys = [task.cache_key for task in gateway.tasks("simulated")]
    assert keys[1] != keys[3]


def test_a_bucket_that_is_away_costs_the_result_and_not_the_task(warm: Gateway) -> None:
    post(warm)
    work(warm, warm.tasks("simulated")[0])
    warm.store.available = False
    answers = [post(warm) for _ in range(4)]
    assert {answer.status_code for answer in answers} == {202}
    assert {answer.headers["Cache-Status"] for answer in answers} == {'atelier; fwd=bypass; detail="unavailable"'}
    assert len(warm.tasks("simulated")) == 5


def test_a_result_whose_files_are_gone_is_made_again(warm: Gateway) -> None:
    post(warm)
    made = work(warm, warm.tasks("simulated")[0])
    warm.store.delete_prefix(made.artifacts[0].key)
    assert post(warm).headers["Cache-Status"] == MISS


def test_an_end_that_cannot_be_told_is_not_answered(warm: Gateway) -> None:
    post(warm)
    work(warm, warm.tasks("simulated")[0])
    warm.publisher.failure = BrokerUnavailableError("gone")
    assert post(warm).status_code == 503


def test_what_was_found_is_counted(warm: Gateway) -> None:
    post(warm)
    work(warm, warm.tasks("simulated")[0])
    post(warm)
    post(warm, cache="off")
    text = warm.client.get("/metrics").get_data(as_text=True)
    for found in ("hit", "miss", "bypass"):
        assert f'found_total{{found="{found}"}} 1.0' in text
