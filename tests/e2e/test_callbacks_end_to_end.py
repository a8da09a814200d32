"""Clients are called back by the whole stack, and see through the public entrance what came of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

import orjson
import pytest

from infra.native.credentials import tenants_url
from shared.auth.store.sql import open_store
from tests.support.receiver import Received, Receiver
from tests.support.tenants import administration
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from tests.support.native import NativeStack

SECONDS: Final = 60
TENANT: Final = "demo-standard"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def secret(stack: NativeStack) -> str:
    store = open_store(tenants_url(stack.stack.site.layout))
    try:
        return administration(store).create_webhook_secret(TENANT).text
    finally:
        store.close()


def submit(stack: NativeStack, status: int = 202, **body: Any) -> str:  # noqa: ANN401 - any field
    answer = stack.post("/api/v1/generate", {"model": "simulated", "prompt": "a quay", **body})
    assert answer.status_code == status, answer.text
    return str(answer.json()["task_id"])


def told(receiver: Receiver, task_id: str, kind: str) -> Received:
    """The callback of this kind for a task."""

    def found() -> Received | None:
        bodies = [(received, orjson.loads(received.body)) for received in receiver.received]
        fit = [each for each, body in bodies if (body["data"]["task_id"], body["type"]) == (task_id, kind)]
        return fit[0] if fit else None

    received = until(found, SECONDS, f"{kind} of {task_id}")
    assert received is not None
    return received


def webhooks(stack: NativeStack, task_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = stack.get(f"/api/v1/tasks/{task_id}/webhooks").json()["webhooks"]
    return found


def test_a_client_is_called_back_and_may_ask_for_it_again(stack: NativeStack, receiver: Receiver, secret: str) -> None:
    task_id = submit(stack, callback_url=f"{receiver.url}/hook", callback_events=["started", "succeeded"])
    for kind in ("task.started", "task.succeeded"):
        received = told(receiver, task_id, kind)
        assert received.path == "/hook"
        assert received.verifies(secret)
    picture = orjson.loads(told(receiver, task_id, "task.succeeded").body)["data"]["artifacts"][0]
    assert stack.get(picture["url"]).status_code == 200

    until(lambda: {each["state"] for each in webhooks(stack, task_id)} == {"delivered"}, SECONDS)
    succeeded = webhooks(stack, task_id)[-1]
    assert (succeeded["type"], succeeded["attempts"][0]["status"]) == ("task.succeeded", 200)
    listed = stack.get("/api/v1/webhooks", state="delivered").json()["webhooks"]
    assert succeeded["webhook_id"] in {each["webhook_id"] for each in listed}

    replay: httpx.Response = stack.post(f"/api/v1/webhooks/{succeeded['webhook_id']}/replay", {})
    assert (replay.status_code, replay.json()["state"]) == (202, "pending")
    until(lambda: receiver.ids().count(succeeded["webhook_id"]) == 2, SECONDS, "the second callback")
    assert stack.get_as("vip", "/api/v1/webhooks").json()["webhooks"] == []
    assert stack.get_as("vip", f"/api/v1/tasks/{task_id}/webhooks").status_code == 404


def test_work_that_was_done_before_is_told_as_well(stack: NativeStack, receiver: Receiver, secret: str) -> None:
    seed = time.time_ns() % 2**40
    first = submit(stack, seed=seed)
    view = stack.get(f"/api/v1/tasks/{first}", wait=30).json()
    assert view["state"] == "succeeded"
    second = submit(stack, 200, seed=seed, callback_url=receiver.url)
    assert told(receiver, second, "task.succeeded").verifies(secret)


def test_a_tenants_own_url_is_called_where_a_request_names_none(
    stack: NativeStack, receiver: Receiver, secret: str
) -> None:
    store = open_store(tenants_url(stack.stack.site.layout))
    store.set_callback(TENANT, f"{receiver.url}/own", None)
    try:
        # Gateways follow within ten seconds; until then tasks are nobody's to tell.
        def called() -> bool:
            submit(stack)
            time.sleep(0.5)
            return bool(receiver.received)

        until(called, SECONDS, "a callback to the tenant's own URL")
    finally:
        store.set_callback(TENANT, None, None)
        store.close()
    assert receiver.received[0].path == "/own"
    assert receiver.received[0].verifies(secret)


def test_the_sender_runs_in_the_stack_and_makes_no_inner_calls_possible(stack: NativeStack) -> None:
    answer = stack.post(
        "/api/v1/generate", {"model": "simulated", "prompt": "x", "callback_url": "http://169.254.169.254/"}
    )
    assert (answer.status_code, answer.json()["code"]) == (422, "callback_refused")
