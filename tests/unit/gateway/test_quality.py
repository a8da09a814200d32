"""Quality as clients ask for it, and what becomes of it under load."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from services.gateway.admission.ports import Admitted, Place, Unlimited
from shared.contracts.base import encode
from shared.domain.errors import PublishUnknownError
from shared.domain.quality import Quality
from shared.storage.records import TaskRecords
from shared.storage.work_index import WorkIndex
from tests.contract.work_index import make
from tests.support.builders import NOW, make_outcome, make_report
from tests.support.tenants import TenantWorld
from tests.unit.gateway.conftest import gateway_over

if TYPE_CHECKING:
    from werkzeug.test import TestResponse

    from services.gateway.admission.ports import Application
    from services.gateway.prompt.validate import PromptValidator
    from tests.unit.gateway.conftest import Gateway

LAKE = {"model": "simulated", "prompt": "a lake"}
ALLOWED = {**LAKE, "quality": "high", "degrade": "allow"}


class Loaded(Unlimited):
    """An Admission with so much work ahead, which remembers as the ledger does."""

    def __init__(self, ahead_work: float) -> None:
        self.ahead_work = ahead_work
        self.settled: dict[str, str | None] = {}
        self.prices: list[float] = []

    def admit(self, application: Application) -> Admitted:
        place = Place(level=5, ahead=7, ahead_work=self.ahead_work, running=1, running_work=0.0)
        repeated = application.task_id in self.settled
        quality = self.settled.setdefault(application.task_id, None)
        return Admitted(place=place, repeated=repeated, quality=quality)

    def lower(self, application: Application, quality: str) -> str:
        self.prices.append(application.gpu_seconds)
        self.settled[application.task_id] = str(quality)
        return quality


@pytest.fixture
def ledger() -> Loaded:
    return Loaded(ahead_work=31.0)


@pytest.fixture
def gateway(prompts: PromptValidator, ledger: Loaded) -> Gateway:
    gateway = gateway_over(prompts, TenantWorld(), ledger)
    gateway.fleet.hear(encode(make_report(worker="a", model="simulated")))
    return gateway


def post(gateway: Gateway, path: str = "/api/v1/generate", headers: Any = None, **body: Any) -> TestResponse:  # noqa: ANN401 - JSON
    return gateway.client.post(path, json={**ALLOWED, **body}, headers={**gateway.headers, **(headers or {})})


def test_a_quality_decides_on_the_steps_and_named_steps_win(gateway: Gateway) -> None:
    gateway.client.post("/generate", json={**LAKE, "quality": "high"}, headers=gateway.headers)
    gateway.client.post("/generate", json={**LAKE, "quality": "high", "steps": 9}, headers=gateway.headers)
    gateway.client.post("/generate", json=LAKE, headers=gateway.headers)
    params = [task.params for task in gateway.tasks("simulated")]
    assert [one.steps for one in params] == [4, 9, 1]
    assert [one.quality for one in params] == [Quality.HIGH, Quality.HIGH, Quality.STANDARD]
    assert {one.quality_asked for one in params} == {None}


def test_a_quality_that_the_model_has_not_is_refused(gateway: Gateway) -> None:
    answer = gateway.client.post("/generate", json={**LAKE, "quality": "draft"}, headers=gateway.headers)
    assert answer.status_code == 422
    assert answer.get_json()["errors"] == [{"message": "must be one of standard, high", "field": "quality"}]
    answer = gateway.client.post("/generate", json={**LAKE, "quality": "best"}, headers=gateway.headers)
    assert (answer.status_code, answer.get_json()["errors"][0]["field"]) == (422, "quality")


def test_models_say_what_their_qualities_are(gateway: Gateway) -> None:
    listed = gateway.client.get("/api/v1/models", headers=gateway.headers).get_json()["models"]
    assert {model["id"]: model["qualities"] for model in listed}["simulated"] == {
        "standard": {"steps": 1},
        "high": {"steps": 4},
    }


def test_under_load_who_allows_it_gets_less_and_is_told(gateway: Gateway, ledger: Loaded) -> None:
    answer = post(gateway)
    assert answer.status_code == 202
    assert (answer.get_json()["quality"], answer.get_json()["quality_asked"]) == ("standard", "high")
    (task,) = gateway.tasks("simulated")
    assert (task.params.quality, task.params.quality_asked, task.params.steps) == ("standard", "high", 1)
    assert ledger.prices == [task.predicted.gpu_seconds]
    assert gateway.events()[-1].data.task == task
    short = post(gateway, "/generate").get_json()
    assert (short["quality"], short["quality_asked"]) == ("standard", "high")


@pytest.mark.parametrize("body", [{"degrade": "never"}, {"steps": 4}, {"steps": 9}])
def test_nobody_else_does(gateway: Gateway, ledger: Loaded, body: dict[str, Any]) -> None:
    answer = post(gateway, **body)
    assert (answer.get_json()["quality"], answer.get_json()["quality_asked"]) == ("high", None)
    assert gateway.tasks("simulated")[0].params.steps == body.get("steps", 4)
    assert ledger.prices == []


def test_without_load_nothing_is_lowered(gateway: Gateway, ledger: Loaded) -> None:
    ledger.ahead_work = 29.0
    assert post(gateway).get_json()["quality"] == "high"


def test_where_nobody_knows_the_load_nothing_is_lowered(prompts: PromptValidator, ledger: Loaded) -> None:
    assert post(gateway_over(prompts, TenantWorld(), ledger)).get_json()["quality"] == "high"


def test_a_replay_is_the_same_answer_whatever_the_load_is_by_then(gateway: Gateway, ledger: Loaded) -> None:
    first = post(gateway, headers={"Idempotency-Key": "k"})
    ledger.ahead_work = 0.0
    again = post(gateway, headers={"Idempotency-Key": "k"})
    assert (again.data, again.headers["Idempotency-Replayed"]) == (first.data, "true")
    assert len(gateway.tasks("simulated")) == 1


@pytest.mark.parametrize(("before", "after", "quality"), [(31.0, 0.0, "standard"), (0.0, 31.0, "high")])
def test_one_that_may_have_been_published_keeps_what_was_settled_on(
    gateway: Gateway, ledger: Loaded, before: float, after: float, quality: str
) -> None:
    ledger.ahead_work = before
    gateway.publisher.failure = PublishUnknownError("no confirm")
    unknown = post(gateway, headers={"Idempotency-Key": "k"}).get_json()["task_id"]
    gateway.publisher.failure = None
    ledger.ahead_work = after
    answer = post(gateway, headers={"Idempotency-Key": "k"}).get_json()
    assert (answer["task_id"], answer["quality"]) == (unknown, quality)


def test_what_is_made_already_is_not_lowered(gateway: Gateway, ledger: Loaded) -> None:
    gateway.fleet.hear(encode(make_report(worker="a", model="simulated", revision="r")))
    ledger.ahead_work = 0.0
    post(gateway, seed=7)
    (task,) = gateway.tasks("simulated")
    assert task.cache_key is not None
    records = TaskRecords(gateway.store)
    WorkIndex(records).lead(task.cache_key, task.task_id, NOW)
    records.commit(make_outcome(task=task, artifacts=(make(gateway.store, task.task_id),)))
    ledger.ahead_work = 31.0
    answer = post(gateway, seed=7, headers={"Idempotency-Key": "other"})
    assert (answer.status_code, answer.get_json()["quality"]) == (200, "high")
    assert ledger.prices == []


def test_a_retry_of_a_lowered_task_asks_for_the_same(gateway: Gateway, ledger: Loaded) -> None:
    post(gateway)
    (task,) = gateway.tasks("simulated")
    TaskRecords(gateway.store).commit(make_outcome(task=task, state="failed"))
    ledger.ahead_work = 0.0
    answer = gateway.client.post(f"/api/v1/tasks/{task.task_id}/retry", headers=gateway.headers)
    assert (answer.get_json()["quality"], answer.get_json()["quality_asked"]) == ("standard", "high")
    assert gateway.tasks("simulated")[-1].params == task.params
