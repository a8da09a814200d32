from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from services.gateway.admission.errors import RateLimitedError
from services.gateway.admission.ports import Admitted, Unlimited, Window
from shared.contracts.base import decode
from shared.contracts.event import queued_event
from shared.contracts.task import TaskMessage
from shared.domain.errors import BrokerUnavailableError, PublishUnknownError, UnroutableError
from shared.domain.plans import Rate
from shared.domain.task import EventType, Lane, TaskState
from shared.ids import is_task_id
from shared.messaging.topology import TASKS, work_queue
from shared.storage.records import TaskRecords
from tests.support.builders import make_outcome
from tests.unit.gateway.conftest import DRAWN_SEED, NOW

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.gateway.admission.errors import AdmissionError
    from services.gateway.admission.ports import Application
    from shared.domain.errors import AtelierError
    from shared.messaging.ports import OutboundMessage
    from tests.unit.gateway.conftest import Gateway

PROMPT = "<character_1><n></n><gender>1girl</gender></character_1><general_tags><style>a & b</style></general_tags>"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_the_short_form_answers_with_an_id_and_where_to_ask(gateway: Gateway) -> None:
    answer = gateway.client.post("/generate", json={"prompt": PROMPT}, headers=gateway.headers)
    assert answer.status_code == 202
    task_id = answer.get_json()["task_id"]
    assert is_task_id(task_id)
    assert answer.get_json() == {"task_id": task_id, "status_url": f"/status/{task_id}"}
    assert answer.headers["Location"] == f"/api/v1/tasks/{task_id}"
    assert answer.headers["X-Task-Id"] == task_id


def test_what_is_published_is_fully_resolved(gateway: Gateway) -> None:
    gateway.client.post(
        "/generate",
        json={"prompt": PROMPT},
        headers={**gateway.headers, "X-Request-ID": "req-12345678", "traceparent": TRACE},
    )
    (task,) = gateway.tasks()
    card = gateway.cards["tiny-newbie"]
    assert task.tenant_id == "acme"
    assert task.lane is Lane.STANDARD
    assert task.params.prompt == PROMPT
    assert task.params.prompt_format == "xml"
    assert (task.params.width, task.params.height) == (card.defaults.width, card.defaults.height)
    assert (task.params.steps, task.params.guidance) == (card.defaults.steps, card.defaults.guidance)
    assert task.params.seed == DRAWN_SEED
    assert task.submitted_at == NOW
    assert task.start_deadline == NOW + timedelta(hours=1)
    assert task.finish_deadline == NOW + timedelta(hours=2)
    assert task.predicted == card.predict(task.params)
    assert (task.request_id, task.traceparent) == ("req-12345678", TRACE)
    (event,) = gateway.events()
    assert event == queued_event(task)
    assert event.type is EventType.QUEUED


def test_the_task_is_persistent_bounded_in_time_and_mandatory(gateway: Gateway) -> None:
    gateway.client.post("/generate", json={"prompt": PROMPT}, headers=gateway.headers)
    (message,) = gateway.broker.messages(work_queue("tiny-newbie"))
    assert message.exchange == TASKS
    assert message.mandatory
    assert message.expiration_ms == 7_200_000
    assert message.message_id == gateway.tasks()[0].task_id
    assert "traceparent" in message.headers


def test_a_vip_key_goes_before_a_standard_one(gateway: Gateway) -> None:
    gateway.client.post("/generate", json={"prompt": PROMPT}, headers=gateway.headers)
    gateway.client.post("/generate", json={"prompt": PROMPT}, headers={"X-API-Key": gateway.vip_key})
    assert [task.tenant_id for task in gateway.tasks()] == ["zeus", "acme"]


def test_every_parameter_of_the_full_form_reaches_the_task(gateway: Gateway) -> None:
    body = {
        "model": "simulated",
        "prompt": "a lake",
        "negative_prompt": "fog",
        "width": 64,
        "height": 64,
        "steps": 3,
        "guidance": 2.5,
        "seed": 99,
        "count": 1,
        "num_frames": 1,
        "quality": "high",
    }
    answer = gateway.client.post("/api/v1/generate", json=body, headers=gateway.headers)
    assert answer.status_code == 202
    assert (answer.get_json()["state"], answer.get_json()["model"], answer.get_json()["seed"]) == (
        "queued",
        "simulated",
        99,
    )
    (task,) = gateway.tasks("simulated")
    assert task.params.model_dump(exclude={"prompt_format", "quality_asked", "image"}) == {
        k: v for k, v in body.items() if k != "model"
    }


@pytest.mark.parametrize(
    ("body", "start", "finish"),
    [
        ({"start_within": 60}, 60, 7200),
        ({"start_within": 60, "finish_within": 90.5}, 60, 90.5),
        ({"finish_within": 600}, 600, 600),
        ({"start_within": 5000, "finish_within": 100_000}, 3600, 7200),
    ],
)
def test_a_request_may_shorten_its_deadlines_and_not_lengthen_them(
    gateway: Gateway, body: dict[str, float], start: float, finish: float
) -> None:
    answer = gateway.client.post("/api/v1/generate", json={"prompt": PROMPT, **body}, headers=gateway.headers)
    assert answer.status_code == 202
    (task,) = gateway.tasks()
    assert task.start_deadline == NOW + timedelta(seconds=start)
    assert task.finish_deadline == NOW + timedelta(seconds=finish)


def test_a_plan_s_deadlines_come_before_the_service_s(gateway: Gateway) -> None:
    key = gateway.tenants.key_of("hasty")
    gateway.tenants.operator.set_plan("hasty", "standard", {"start_within": 30.0, "finish_within": 100_000.0})
    gateway.client.post("/generate", json={"prompt": PROMPT}, headers={"X-API-Key": key})
    (task,) = gateway.tasks()
    assert task.start_deadline == NOW + timedelta(seconds=30)
    assert task.finish_deadline == NOW + timedelta(seconds=100_000)


def test_a_task_that_cannot_end_in_its_time_is_refused(gateway: Gateway) -> None:
    body = {"model": "simulated", "prompt": "a lake", "steps": 1200, "finish_within": 5}
    answer = gateway.client.post("/api/v1/generate", json=body, headers=gateway.headers)
    assert (answer.status_code, answer.get_json()["code"]) == (422, "exceeds_time")
    assert gateway.published() == 0


def test_a_malformed_request_id_or_trace_is_replaced(gateway: Gateway) -> None:
    headers = {**gateway.headers, "X-Request-ID": "short", "traceparent": "00-zz"}
    answer = gateway.client.post("/generate", json={"prompt": PROMPT}, headers=headers)
    (task,) = gateway.tasks()
    assert task.request_id == answer.headers["X-Request-ID"] != "short"
    assert task.traceparent is not None
    assert task.traceparent.startswith("00-")
    assert task.traceparent != "00-zz"


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (BrokerUnavailableError("down"), "broker_unavailable"),
        (UnroutableError("no queue"), "model_unavailable"),
        (PublishUnknownError("no confirm"), "publish_voided"),
    ],
)
def test_a_broker_that_cannot_be_used_is_503_with_retry_after(
    gateway: Gateway, failure: AtelierError, code: str
) -> None:
    gateway.publisher.failure = failure
    answer = gateway.client.post("/generate", json={"prompt": PROMPT}, headers=gateway.headers)
    assert answer.status_code == 503
    assert answer.get_json()["code"] == code
    assert int(answer.headers["Retry-After"]) > 0


def test_an_unconfirmed_submit_that_nobody_can_complete_is_cancelled(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = unconfirmed(gateway, monkeypatch)
    answer = gateway.client.post("/generate", json={"prompt": PROMPT}, headers=gateway.headers)
    assert (answer.status_code, answer.get_json()["code"]) == (503, "publish_voided")
    outcome = TaskRecords(gateway.store).outcome(tasks[0].task_id)
    assert outcome is not None
    assert outcome.state is TaskState.CANCELLED
    assert outcome.task == tasks[0]
    assert outcome.error is not None
    assert outcome.error.code == "publish_voided"


@pytest.mark.parametrize("state", [TaskState.SUCCEEDED, TaskState.FAILED])
def test_an_unconfirmed_submit_that_has_ended_by_then_is_accepted(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, state: TaskState
) -> None:
    def end(task: TaskMessage) -> None:
        TaskRecords(gateway.store).commit(make_outcome(task=task, state=state))

    tasks = unconfirmed(gateway, monkeypatch, end)
    answer = gateway.client.post("/api/v1/generate", json={"prompt": PROMPT}, headers=gateway.headers)
    assert (answer.status_code, answer.get_json()["state"]) == (202, state)
    assert (answer.get_json()["result_url"] is not None) == (state is TaskState.SUCCEEDED)
    assert answer.get_json()["task_id"] == tasks[0].task_id


def unconfirmed(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[TaskMessage], object] = id
) -> list[TaskMessage]:
    """The tasks that the broker gets and does not confirm in time."""
    tasks: list[TaskMessage] = []

    def publish(task: OutboundMessage, _event: OutboundMessage, *, timeout: float) -> None:
        tasks.append(decode(TaskMessage, task.body))
        meanwhile(tasks[-1])
        message = f"no confirm in {timeout:g} s"
        raise PublishUnknownError(message)

    monkeypatch.setattr(gateway.publisher, "publish", publish)
    return tasks


@pytest.mark.parametrize("key", ["k", None])
def test_an_unconfirmed_submit_names_the_task_that_may_run(gateway: Gateway, key: str | None) -> None:
    """With a key it is completed by the next request of that key; without one the bucket has to be away."""
    gateway.publisher.failure = PublishUnknownError("no confirm")
    gateway.store.available = key is not None
    headers = gateway.headers if key is None else {**gateway.headers, "Idempotency-Key": key}
    answer = gateway.client.post("/generate", json={"prompt": PROMPT}, headers=headers)
    assert is_task_id(answer.get_json()["task_id"])
    assert answer.headers["X-Task-Id"] == answer.get_json()["task_id"]
    assert answer.get_json()["error"]["code"] == "publish_unknown"


def test_models_are_listed_with_their_limits_and_without_their_costs(gateway: Gateway) -> None:
    answer = gateway.client.get("/api/v1/models", headers=gateway.headers)
    assert [model["id"] for model in answer.get_json()["models"]] == ["tiny-newbie", "simulated"]
    model = answer.get_json()["models"][0]
    assert not {"cost", "backend", "options", "simulated"} & set(model)


def test_a_model_says_what_it_is_what_it_takes_and_within_which_limits(gateway: Gateway) -> None:
    model = gateway.client.get("/api/v1/models", headers=gateway.headers).get_json()["models"][0]
    told = {
        name: model[name] for name in ("kind", "prompt_formats", "negative_prompt", "image_input", "licence", "tiers")
    }
    assert told == {
        "kind": "image",
        "prompt_formats": ["xml", "text"],
        "negative_prompt": True,
        "image_input": "none",
        "licence": "Apache-2.0",
        "tiers": ["resident", "tiled"],
    }
    sizes = {"min_side", "max_side", "side_multiple", "max_pixels"}
    assert sizes | {"max_frames", "frame_step", "max_steps", "max_guidance", "max_count"} <= set(model["limits"])
    assert {"max_prompt_chars", "max_prompt_tokens"} <= set(model["limits"])
    assert {"width", "height", "steps", "guidance", "count", "num_frames"} <= set(model["defaults"])


def test_readiness_follows_the_broker(gateway: Gateway) -> None:
    assert gateway.client.get("/readyz").status_code == 200
    gateway.publisher.problem = "not connected"
    answer = gateway.client.get("/readyz")
    assert answer.status_code == 503
    assert answer.get_json()["checks"] == {"broker": "not connected", "keys": "ok"}
    assert gateway.client.get("/healthz").status_code == 200


def test_requests_are_counted_by_route_and_not_by_path(gateway: Gateway) -> None:
    gateway.client.post("/generate", json={"prompt": PROMPT}, headers=gateway.headers)
    text = gateway.client.get("/metrics").text
    assert 'atelier_http_request_seconds_count{endpoint="generate.generate",method="POST",status="202"} 1.0' in text


class Full(Unlimited):
    """An Admission without a place; notes what was withdrawn."""

    def __init__(self, error: AdmissionError | None = None) -> None:
        self.error = error
        self.asked: list[Application] = []
        self.withdrawn: list[str] = []

    def admit(self, application: Application) -> Admitted:
        self.asked.append(application)
        if self.error is not None:
            raise self.error
        rate = Rate(requests=20, seconds=1)
        return Admitted(windows=(Window(rate=rate, remaining=19, reset_seconds=0.05),))

    def withdraw(self, application: Application) -> None:
        self.withdrawn.append(application.task_id)


def test_what_admission_refuses_is_not_published_and_says_when_to_come_back(gateway: Gateway) -> None:
    rate = Rate(requests=20, seconds=1)
    window = Window(rate=rate, remaining=0, reset_seconds=0.95)
    gateway.submitter._admission = Full(RateLimitedError("slow down", retry_after_seconds=0.2, windows=(window,)))
    answer = gateway.client.post("/generate", json={"prompt": "a lake"}, headers=gateway.headers)
    assert (answer.status_code, answer.get_json()["code"]) == (429, "rate_limited")
    assert (answer.headers["Retry-After"], answer.headers["RateLimit"]) == ("1", '"1s";r=0;t=1')
    assert gateway.published() == 0


def test_an_accepted_task_says_what_is_left_and_asks_with_its_price_and_plan(gateway: Gateway) -> None:
    admission = Full()
    gateway.submitter._admission = admission
    answer = gateway.client.post("/generate", json={"prompt": "a lake"}, headers=gateway.headers)
    assert answer.headers["RateLimit-Policy"] == '"1s";q=20;w=1'
    (asked,) = admission.asked
    (task,) = gateway.tasks()
    assert (asked.task_id, asked.gpu_seconds) == (task.task_id, task.predicted.gpu_seconds)
    assert (asked.bound, asked.queued) == (900, 200)


@pytest.mark.parametrize(("failure", "withdrawn"), [(BrokerUnavailableError("away"), 1), (PublishUnknownError("?"), 0)])
def test_a_place_is_given_back_only_when_nothing_was_published_for_certain(
    gateway: Gateway, failure: AtelierError, withdrawn: int
) -> None:
    admission = Full()
    gateway.submitter._admission = admission
    gateway.publisher.failure = failure
    assert gateway.client.post("/generate", json={"prompt": "a lake"}, headers=gateway.headers).status_code == 503
    assert len(admission.withdrawn) == withdrawn
