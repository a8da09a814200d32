"""Another try of a task that did not succeed, through the real application over fakes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from services.gateway.admission.errors import TooManyTasksError
from services.gateway.admission.ports import Admitted, Unlimited
from services.gateway.retrying import MOST_FOLLOWED
from shared.domain.errors import BrokerUnavailableError, PublishUnknownError
from shared.domain.task import EventType, TaskState
from shared.ids import new_task_id, retried_id
from shared.storage.records import JSON, TaskRecords, outcome_key
from tests.support.builders import TASK_ID, make_artifact, make_outcome, make_params, make_task
from tests.support.status_api import assert_problem
from tests.unit.gateway.conftest import DRAWN_SEED, NOW

if TYPE_CHECKING:
    from werkzeug.test import TestResponse

    from services.gateway.admission.ports import Application
    from shared.contracts.outcome import Outcome
    from shared.contracts.task import TaskMessage
    from tests.unit.gateway.conftest import Gateway

TENANT = "acme"
PATH = f"/api/v1/tasks/{TASK_ID}/retry"
UNSUCCESSFUL = [TaskState.FAILED, TaskState.EXPIRED, TaskState.CANCELLED]
OLD = make_task(
    attempt=3,
    max_attempts=4,
    priority=2,
    params=make_params(negative_prompt="fog", count=2, seed=99),
    cache_key="c",
    callback="https://example.org/done",
    callback_events=("failed",),
)


def end(gateway: Gateway, state: TaskState = TaskState.FAILED, task: TaskMessage = OLD) -> Outcome:
    artifacts = (make_artifact(),) if state is TaskState.SUCCEEDED else ()
    return TaskRecords(gateway.store).commit(make_outcome(task=task, state=state, artifacts=artifacts))


def retry(gateway: Gateway, path: str = PATH, key: str | None = None, **headers: str) -> TestResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return gateway.client.post(path, headers={"Authorization": f"Bearer {key or gateway.key}", **named})


def tasks(gateway: Gateway) -> list[TaskMessage]:
    return gateway.tasks("simulated")


def task_id_of(answer: TestResponse) -> str:
    task_id: str = answer.get_json()["task_id"]
    assert answer.headers["Location"] == f"/api/v1/tasks/{task_id}"
    return task_id


@pytest.mark.parametrize("state", UNSUCCESSFUL)
def test_the_same_work_is_submitted_as_a_new_task(gateway: Gateway, state: TaskState) -> None:
    old = end(gateway, state)
    answer = retry(gateway)
    assert answer.status_code == 202
    body = answer.get_json()
    assert (body["retry_of"], body["state"], body["seed"]) == (TASK_ID, "queued", 99)
    (task,) = tasks(gateway)
    assert task.task_id == task_id_of(answer) == retried_id(TASK_ID, old.ended_at)
    assert (task.params, task.retry_of, task.cache_key) == (OLD.params, TASK_ID, None)
    assert (task.callback, task.callback_events) == (OLD.callback, (EventType.FAILED,))
    assert (task.attempt, task.max_attempts, task.priority, task.submitted_at) == (1, 3, 5, NOW)
    assert task.finish_deadline > task.start_deadline > NOW
    (event,) = gateway.events()
    assert (event.type, event.data.task) == (EventType.QUEUED, task)


def test_twice_is_one_task(gateway: Gateway) -> None:
    end(gateway)
    assert task_id_of(retry(gateway)) == task_id_of(retry(gateway))
    assert len({task.task_id for task in tasks(gateway)}) == 1


def test_a_retry_that_failed_is_itself_retried(gateway: Gateway) -> None:
    end(gateway)
    first = task_id_of(retry(gateway))
    end(gateway, TaskState.EXPIRED, tasks(gateway)[0])
    for path in (PATH, f"/api/v1/tasks/{first}/retry"):
        answer = retry(gateway, path)
        assert task_id_of(answer) == tasks(gateway)[-1].task_id != first
        assert answer.get_json()["retry_of"] == tasks(gateway)[-1].retry_of == first


def test_a_retry_that_succeeded_is_the_answer(gateway: Gateway) -> None:
    end(gateway)
    first = task_id_of(retry(gateway))
    end(gateway, TaskState.SUCCEEDED, tasks(gateway)[0])
    answer = retry(gateway)
    body = answer.get_json()
    assert (answer.status_code, task_id_of(answer), body["state"], body["retry_of"]) == (
        200,
        first,
        "succeeded",
        TASK_ID,
    )
    assert len(body["artifacts"]) == 1
    assert len(tasks(gateway)) == 1


def test_a_success_needs_no_retry(gateway: Gateway) -> None:
    end(gateway, TaskState.SUCCEEDED)
    assert assert_problem(retry(gateway), 409, "task_succeeded")["state"] == "succeeded"


def test_an_open_task_of_ones_own_is_refused_as_such(gateway: Gateway) -> None:
    gateway.open_tasks[TASK_ID] = TENANT
    assert_problem(retry(gateway), 409, "task_not_ended")


def test_what_is_anothers_or_unknown_is_not_found_and_looks_alike(gateway: Gateway) -> None:
    end(gateway)
    others = new_task_id()
    gateway.open_tasks[others] = TENANT
    bodies = [
        assert_problem(retry(gateway, f"/api/v1/tasks/{task_id}/retry", gateway.vip_key), 404, "task_not_found")
        for task_id in (TASK_ID, others, new_task_id(), "x", TASK_ID.upper())
    ]
    told = [{name: body[name] for name in body if name not in {"instance", "request_id"}} for body in bodies]
    assert all(body == told[0] for body in told)
    assert gateway.published() == 0


def test_without_a_key_nothing_is_retried(gateway: Gateway) -> None:
    end(gateway)
    assert_problem(gateway.client.post(PATH), 401, "unauthorized")


def test_a_bucket_that_is_away_is_said(gateway: Gateway) -> None:
    gateway.store.available = False
    assert_problem(retry(gateway), 503, "storage_error")


def test_an_outcome_that_cannot_be_read_is_the_stores_fault(gateway: Gateway) -> None:
    gateway.store.put(outcome_key(TASK_ID), b"garbage", media_type=JSON)
    assert_problem(retry(gateway), 503, "storage_error")


def test_a_retry_is_admitted_like_any_other_task(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(Unlimited):
        def admit(self, application: Application) -> Admitted:
            assert application.tenant_id == TENANT
            message = "enough"
            raise TooManyTasksError(message, retry_after_seconds=7)

    end(gateway)
    monkeypatch.setattr(gateway.submitter, "_admission", Full())
    assert_problem(retry(gateway), 429, "too_many_tasks")
    assert gateway.published() == 0


def test_one_that_the_ledger_holds_is_told_and_not_published_again(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Holding(Unlimited):
        def admit(self, application: Application) -> Admitted:
            assert application.again
            return Admitted(held=True)

    old = end(gateway)
    monkeypatch.setattr(gateway.submitter, "_admission", Holding())
    answer = retry(gateway)
    assert (answer.status_code, task_id_of(answer)) == (202, retried_id(TASK_ID, old.ended_at))
    assert gateway.published() == 0


def test_what_the_model_no_longer_allows_is_refused(gateway: Gateway) -> None:
    end(gateway, task=make_task(params=make_params(steps=5000)))
    assert_problem(retry(gateway), 422, "invalid_parameters")


def test_a_key_that_comes_again_gets_the_same_answer_whatever_became_of_the_retry(gateway: Gateway) -> None:
    end(gateway)
    first = retry(gateway, Idempotency_Key="k")
    end(gateway, TaskState.FAILED, tasks(gateway)[0])
    again = retry(gateway, Idempotency_Key="k")
    assert (again.data, again.headers["Idempotency-Replayed"]) == (first.data, "true")
    assert len(tasks(gateway)) == 1
    assert task_id_of(retry(gateway, Idempotency_Key="another")) != task_id_of(first)


def test_a_key_whose_retry_failed_before_anybody_was_answered_tells_that_end(gateway: Gateway) -> None:
    end(gateway)
    gateway.publisher.failure = PublishUnknownError()
    unknown = assert_problem(retry(gateway, Idempotency_Key="k"), 503, "publish_unknown")
    end(gateway, TaskState.FAILED, make_task(task_id=unknown["task_id"], retry_of=TASK_ID))
    gateway.publisher.failure = None
    answer = retry(gateway, Idempotency_Key="k")
    assert (task_id_of(answer), answer.get_json()["state"]) == (unknown["task_id"], "failed")
    assert gateway.published() == 0


def test_a_publish_that_nobody_confirms_is_completed_by_the_next_retry(gateway: Gateway) -> None:
    end(gateway)
    gateway.publisher.failure = PublishUnknownError()
    unknown = assert_problem(retry(gateway), 503, "publish_unknown")
    assert not gateway.store.exists(outcome_key(unknown["task_id"]))
    gateway.publisher.failure = None
    assert task_id_of(retry(gateway)) == unknown["task_id"]


def test_a_broker_that_is_away_is_said(gateway: Gateway) -> None:
    end(gateway)
    gateway.publisher.failure = BrokerUnavailableError()
    assert_problem(retry(gateway), 503, "broker_unavailable")


@pytest.mark.parametrize(
    ("body", "status"), [(b"", 202), (b"{}", 202), (b'{"seed": 1}', 422), (b"[]", 400), (b"{", 400)]
)
def test_there_is_nothing_to_ask_for(gateway: Gateway, body: bytes, status: int) -> None:
    end(gateway)
    answer = gateway.client.post(PATH, data=body, headers=gateway.headers)
    assert answer.status_code == status, answer.data


def test_a_body_beyond_the_bound_is_refused(gateway: Gateway) -> None:
    answer = gateway.client.post(PATH, data=b" " * 300_000, headers=gateway.headers)
    assert_problem(answer, 413, "body_too_large")


def test_a_long_line_of_failures_is_followed_to_a_bound(gateway: Gateway) -> None:
    outcome = end(gateway)
    for _ in range(MOST_FOLLOWED):
        following = retried_id(outcome.task.task_id, outcome.ended_at)
        outcome = end(gateway, task=make_task(task_id=following))
    assert outcome.task.task_id in assert_problem(retry(gateway), 409, "retried_often")["detail"]
    assert retry(gateway, f"/api/v1/tasks/{outcome.task.task_id}/retry").status_code == 202


def test_the_seed_that_was_drawn_is_kept(gateway: Gateway) -> None:
    answer: dict[str, Any] = gateway.client.post(
        "/api/v1/generate", json={"prompt": "a lake", "model": "simulated"}, headers=gateway.headers
    ).get_json()
    (task,) = tasks(gateway)
    end(gateway, task=task)
    assert retry(gateway, f"/api/v1/tasks/{task.task_id}/retry").get_json()["seed"] == answer["seed"] == DRAWN_SEED


def test_ids_and_places_are_those_of_a_submit(gateway: Gateway) -> None:
    end(gateway)
    body = retry(gateway).get_json()
    assert re.fullmatch(r"/status/[0-9a-f-]{36}", body["status_url"])
    assert {"model", "priority", "ahead", "eta_seconds"} <= set(body)
