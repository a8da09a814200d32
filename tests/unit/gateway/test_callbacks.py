"""What a request may ask to be called back for, and where."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from services.gateway.admission.ports import Unlimited
from shared.auth.plans import load_plans
from shared.domain.task import EventType
from tests.support.tenants import TenantWorld, plans_with_anonymous
from tests.unit.gateway.conftest import gateway_over

if TYPE_CHECKING:
    from pathlib import Path

    from services.gateway.prompt.validate import PromptValidator
    from shared.contracts.task import TaskMessage
    from tests.unit.gateway.conftest import Gateway

URL = "https://example.com/hook?token=1"
OWN = "https://acme.example/own"


def submit(gateway: Gateway, path: str = "/api/v1/generate", **body: Any) -> TaskMessage:  # noqa: ANN401 - any field
    answer = gateway.client.post(path, json={"prompt": "a lake", **body}, headers=gateway.headers)
    assert answer.status_code == 202, answer.data
    return gateway.tasks()[-1]


def refused(gateway: Gateway, **body: Any) -> dict[str, Any]:  # noqa: ANN401 - any field
    answer = gateway.client.post("/api/v1/generate", json={"prompt": "a lake", **body}, headers=gateway.headers)
    assert answer.status_code == 422
    assert gateway.published() == 0
    problem: dict[str, Any] = answer.get_json()
    return problem


@pytest.mark.parametrize("path", ["/generate", "/api/v1/generate"])
def test_the_url_goes_with_the_task_and_its_event(gateway: Gateway, path: str) -> None:
    task = submit(gateway, path, callback_url=URL)
    assert (task.callback, task.callback_events) == (URL, None)
    (event,) = gateway.events()
    assert event.data.task == task


def test_events_may_be_named_with_and_without_their_kind(gateway: Gateway) -> None:
    task = submit(gateway, callback_url=URL, callback_events=["started", "task.failed", "task.started"])
    assert task.callback_events == (EventType.STARTED, EventType.FAILED)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"callback_url": "ftp://example.com/"}, "callback_url"),
        ({"callback_url": ""}, "callback_url"),
        ({"callback_url": "https://127.0.0.1/"}, "callback_url"),
        ({"callback_url": "https://10.1.2.3/hook"}, "callback_url"),
        ({"callback_url": "https://[::ffff:10.1.2.3]/hook"}, "callback_url"),
        ({"callback_url": "https://example.com:8443/"}, "callback_url"),
        ({"callback_url": "https://u:p@example.com/"}, "callback_url"),
        ({"callback_url": f"https://example.com/{'a' * 3000}"}, "callback_url"),
        ({"callback_url": URL, "callback_events": ["finished"]}, "callback_events"),
        ({"callback_url": URL, "callback_events": ["queued"]}, "callback_events"),
        ({"callback_url": URL, "callback_events": ["progress"]}, "callback_events"),
        ({"callback_events": ["failed"]}, "callback_events"),
    ],
)
def test_a_callback_that_cannot_be_made_is_refused_and_not_ignored(
    gateway: Gateway, body: dict[str, Any], field: str
) -> None:
    problem = refused(gateway, **body)
    assert problem["code"] == "callback_refused"
    assert problem["errors"][0]["field"] == problem["error"]["param"] == field


@pytest.mark.parametrize("events", [[], "failed", [1], ["x" * 33], ["failed"] * 17])
def test_events_are_a_short_list_of_words(gateway: Gateway, events: object) -> None:
    problem = refused(gateway, callback_url=URL, callback_events=events)
    assert problem["code"] == "invalid_parameters"


class TestOfATenantWithAUrlOfItsOwn:
    @pytest.fixture(autouse=True)
    def _set(self, gateway: Gateway) -> None:
        gateway.tenants.operator.set_callback("acme", OWN, ["expired", "started"])

    def test_a_request_without_a_url_has_the_tenants(self, gateway: Gateway) -> None:
        for task in (submit(gateway), submit(gateway, callback_url=None)):
            assert (task.callback, task.callback_events) == (OWN, (EventType.EXPIRED, EventType.STARTED))

    def test_a_request_may_choose_the_events(self, gateway: Gateway) -> None:
        task = submit(gateway, callback_events=["failed"])
        assert (task.callback, task.callback_events) == (OWN, (EventType.FAILED,))

    def test_a_request_with_a_url_has_nothing_of_the_tenants(self, gateway: Gateway) -> None:
        task = submit(gateway, callback_url=URL)
        assert (task.callback, task.callback_events) == (URL, None)

    def test_without_it_again_nobody_is_called(self, gateway: Gateway) -> None:
        gateway.tenants.operator.set_callback("acme", None)
        gateway.tenants.seconds += 10
        task = submit(gateway)
        assert (task.callback, task.callback_events) == (None, None)


def test_an_address_without_a_key_is_not_called_back(prompts: PromptValidator, tmp_path: Path) -> None:
    plans = load_plans(plans_with_anonymous(tmp_path))
    gateway = gateway_over(prompts, TenantWorld(plans=plans), Unlimited())
    answer = gateway.client.post("/api/v1/generate", json={"prompt": "x", "callback_url": URL})
    assert (answer.status_code, answer.get_json()["code"]) == (422, "callback_refused")
