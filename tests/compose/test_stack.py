"""The whole stack in containers does the main job: while it is scaled, and while each of its parts restarts."""

from __future__ import annotations

import hashlib
import io
import threading
from collections import Counter
from time import sleep
from typing import TYPE_CHECKING, Any, Self
from uuid import uuid4

import httpx
import pytest
from PIL import Image

from infra.native.demo import PROMPT
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.support.compose_stack import ComposeStack

SECONDS = 120
# 409: its first try is still under way; 429: the queue is full, as it may be while a part is away.
RETRIED = {409, 429, 502, 503, 504}


def submitted(client: httpx.Client, **body: str | int) -> str:
    answer = client.post("/api/v1/generate", json={"prompt": "a lake", "model": "simulated", **body})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["task_id"])


def ended(client: httpx.Client, task_id: str) -> dict[str, Any]:
    def end() -> dict[str, Any] | None:
        view: dict[str, Any] = client.get(f"/api/v1/tasks/{task_id}", params={"wait": 30}).json()
        return view if view.get("ended_at") else None

    return until(end, SECONDS, f"the end of {task_id}") or {}


def test_an_xml_prompt_becomes_a_picture(client: httpx.Client) -> None:
    accepted = client.post("/generate", json={"prompt": PROMPT.read_text()})
    assert accepted.status_code == 202, accepted.text
    view = ended(client, accepted.json()["task_id"])
    assert view["state"] == "succeeded", view
    (artifact,) = view["artifacts"]
    answer = client.get(artifact["url"])
    assert hashlib.sha256(answer.content).hexdigest() == artifact["sha256"]
    picture = Image.open(io.BytesIO(answer.content))
    assert picture.size == (128, 128)
    assert len(picture.convert("RGB").getcolors(128 * 128) or []) > 100  # not a flat field


def test_more_gateways_and_workers_share_the_work_and_leave_without_a_refusal(
    stack: ComposeStack, client: httpx.Client
) -> None:
    scaled = ("up", "--detach", "--no-recreate", "--no-build", "--wait")
    stack.compose(*scaled, "--scale", "gateway=4", "--scale", "worker-simulated=2")
    assert len(stack.containers("gateway")) == 4
    took = [ended(client, submitted(client, steps=2))["state"] for _ in range(12)]
    took += [ended(client, task_id)["state"] for task_id in [submitted(client, steps=4) for _ in range(12)]]
    assert set(took) == {"succeeded"}
    assert len({line["container"] for line in stack.events_of("gateway", "task_submitted")}) == 4
    assert len({line["container"] for line in stack.events_of("worker-simulated", "task_started")}) == 2
    with Load(stack) as load:
        stack.compose(*scaled, "--scale", "gateway=2", "--scale", "worker-simulated=1")
        sleep(3)  # as long again with the smaller number
    assert load.refused == Counter()
    assert {ended(client, task_id)["state"] for task_id in load.accepted.values()} == {"succeeded"}


class Load:
    """Submits steadily, each request until it is accepted, under an Idempotency-Key of its own."""

    def __init__(self, stack: ComposeStack) -> None:
        self.accepted: dict[str, str] = {}
        self.refused: Counter[str] = Counter()
        self._stack = stack
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def await_more(self, than: int, what: str) -> None:
        """Wait until more than so many were accepted."""
        until(lambda: len(self.accepted) > than, SECONDS, what)

    def _run(self) -> None:
        with self._stack.client() as client:
            while not self._over.is_set():
                key = uuid4().hex
                while key not in self.accepted:
                    self._submit(client, key)
                    sleep(0.3)

    def _submit(self, client: httpx.Client, key: str) -> None:
        body = {"prompt": "a lake", "model": "simulated"}
        try:
            answer = client.post("/api/v1/generate", json=body, headers={"Idempotency-Key": key})
        except httpx.TransportError as exc:
            self.refused[type(exc).__name__] += 1
            return
        if answer.status_code == 202:
            self.accepted[key] = answer.json()["task_id"]
        else:
            assert answer.status_code in RETRIED, answer.text
            self.refused[str(answer.status_code)] += 1


@pytest.mark.faults
def test_each_service_restarts_in_turn_under_load_and_nothing_accepted_is_lost(
    stack: ComposeStack, client: httpx.Client
) -> None:
    with Load(stack) as load:
        for service in stack.services():
            before = len(load.accepted)
            stack.compose("restart", service)
            stack.compose("up", "--detach", "--no-recreate", "--no-build", "--wait")
            load.await_more(before, f"a submit after {service} restarted")
    tasks = list(load.accepted.values())
    assert len(set(tasks)) == len(tasks)
    states = Counter(ended(client, task_id)["state"] for task_id in tasks)
    assert states == {"succeeded": len(tasks)}
    until(lambda: waiting_messages(stack) == {}, SECONDS, "empty queues")


def waiting_messages(stack: ComposeStack) -> dict[str, int]:
    text = stack.inside(
        "rabbitmq", "rabbitmqctl", "--quiet", "list_queues", "--vhost", "atelier", "name", "messages"
    ).stdout
    pairs = [line.split() for line in text.splitlines()]
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1] not in {"0", "messages"}}
