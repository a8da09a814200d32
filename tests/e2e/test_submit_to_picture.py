"""The main job through the public entrance, on real parts."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING, Any

import pika
from PIL import Image

from infra.native.demo import PROMPT
from infra.native.logs import story
from shared.contracts.base import decode
from shared.contracts.dead import DeadLetter
from shared.messaging.messages import HEADER_REASON
from shared.messaging.topology import TASKS_DEAD, work_queue
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.support.native import NativeStack

SECONDS = 60
PARTS = ("nginx", "gateway", "worker", "status-consumer", "status-api")


def submitted(stack: NativeStack, **body: str | int) -> str:
    answer = stack.post("/api/v1/generate", {"prompt": "a lake", **body})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["task_id"])


def test_an_xml_prompt_becomes_a_picture(stack: NativeStack) -> None:
    accepted = stack.post("/generate", {"prompt": PROMPT.read_text()})
    assert accepted.status_code == 202
    task_id = accepted.json()["task_id"]
    status = stack.get(accepted.json()["status_url"], wait=30).json()
    assert (status["status"], status["progress"]) == ("done", 1.0)
    view = stack.get(f"/api/v1/tasks/{task_id}").json()
    answer = stack.get(status["result_url"])
    assert answer.headers["Content-Type"] == "image/png"
    assert hashlib.sha256(answer.content).hexdigest() == view["artifacts"][0]["sha256"]
    picture = Image.open(io.BytesIO(answer.content))
    assert picture.size == (128, 128)
    assert (picture.info["task_id"], picture.info["seed"]) == (task_id, str(view["seed"]))
    assert len(picture.convert("RGB").getcolors(128 * 128) or []) > 100  # not a flat field


def test_the_same_seed_makes_the_same_picture(stack: NativeStack) -> None:
    sums = set()
    for _ in range(2):
        task_id = submitted(stack, model="tiny-newbie", seed=7, cache="off")
        view = stack.get(f"/api/v1/tasks/{task_id}", wait=30).json()
        picture = Image.open(io.BytesIO(stack.get(view["artifacts"][0]["url"]).content))
        sums.add(hashlib.sha256(picture.tobytes()).hexdigest())
    assert len(sums) == 1


def test_status_goes_from_queued_over_generating_to_done(stack: NativeStack) -> None:
    stack.stack.stop_program("worker-simulated")
    task_id = submitted(stack, model="simulated", steps=40)
    before = until(lambda: stack.get(f"/status/{task_id}").json(), SECONDS, "a status")
    assert before["status"] == "queued"
    stack.stack.start_program("worker-simulated")
    during = until(lambda: generating(stack, task_id), SECONDS, "a step of the running task")
    assert 0 < during["step"] <= during["steps"] == 40
    assert 0 < during["progress"] < 1
    after = stack.get(f"/status/{task_id}", wait=30).json()
    assert after["status"] == "done"


def generating(stack: NativeStack, task_id: str) -> dict[str, Any]:
    status: dict[str, Any] = stack.get(f"/status/{task_id}").json()
    return status if status["status"] == "generating" and status["step"] else {}


def test_another_tenants_task_does_not_exist(stack: NativeStack) -> None:
    task_id = submitted(stack, model="simulated")
    foreign = stack.get_as("vip", f"/api/v1/tasks/{task_id}")
    unknown = stack.get_as("vip", f"/api/v1/tasks/{task_id[:-4]}0000")
    assert foreign.status_code == unknown.status_code == 404
    assert foreign.json()["code"] == unknown.json()["code"]


def test_a_vip_task_passes_a_queue_of_standard_ones(stack: NativeStack) -> None:
    stack.stack.stop_program("worker-simulated")
    standard = [submitted(stack, model="simulated") for _ in range(5)]
    vip = str(stack.post_as("vip", "/api/v1/generate", {"model": "simulated", "prompt": "x"}).json()["task_id"])
    stack.stack.start_program("worker-simulated")
    ends = [stack.get(f"/api/v1/tasks/{task_id}", wait=30).json()["ended_at"] for task_id in standard]
    assert stack.get_as("vip", f"/api/v1/tasks/{vip}", wait=30).json()["ended_at"] < min(ends)


def test_a_task_is_followed_by_its_id_through_every_service(stack: NativeStack) -> None:
    answer = stack.post("/api/v1/generate", {"model": "simulated", "prompt": "a lake"})
    task_id, request_id = answer.json()["task_id"], answer.headers["X-Request-ID"]
    stack.get(f"/api/v1/tasks/{task_id}", wait=30)
    logs = stack.stack.site.layout.logs

    def told() -> set[str]:
        programs = {line.split()[1] for line in story(logs, task_id)}
        return {part for part in PARTS if any(program.startswith(part) for program in programs)}

    until(lambda: told() == set(PARTS), SECONDS, "a line of every service")
    lines = until(lambda: settled(story(logs, task_id)), SECONDS, "the worker's last line")
    for event in ("task_submitted", "delivery_taken", "task_started", "artifacts_stored", "task_settled"):
        (line,) = [line for line in lines if f" {event} " in line]
        assert request_id in line


def settled(lines: list[str]) -> list[str]:
    return lines if any(" task_settled " in line for line in lines) else []


def test_an_undecodable_message_is_parked_with_its_reason_and_the_worker_goes_on(stack: NativeStack) -> None:
    url = stack.administrator_url()
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.basic_publish("atelier.tasks", "simulated", b"not a task")
        assert work_queue("simulated") == "tasks.simulated"
        task_id = submitted(stack, model="simulated")
        assert stack.get(f"/api/v1/tasks/{task_id}", wait=30).json()["state"] == "succeeded"

        def parked() -> dict[str, Any] | None:
            method, properties, body = channel.basic_get(TASKS_DEAD, auto_ack=True)
            return {"body": body, **(properties.headers or {})} if method and properties else None

        message = until(parked, SECONDS, "the parked message")
    assert message is not None
    assert decode(DeadLetter, message["body"]).body == b"not a task"
    assert message[HEADER_REASON] == "undecodable"


def test_without_a_broker_submits_are_refused_in_bounded_time_and_taken_again_after(stack: NativeStack) -> None:
    stack.stack.stop_program("rabbitmq")
    answer = stack.post("/generate", {"prompt": "a lake"})
    assert answer.status_code == 503
    assert answer.json()["code"] == "broker_unavailable"
    assert int(answer.headers["Retry-After"]) > 0
    stack.stack.start_program("rabbitmq")
    until(lambda: stack.post("/generate", {"prompt": "a lake"}).status_code == 202, SECONDS, "an accepted submit")


def test_the_models_are_listed_publicly_to_whoever_has_a_key(stack: NativeStack) -> None:
    answer = stack.get("/api/v1/models")
    assert [model["id"] for model in answer.json()["models"]] == ["tiny-newbie", "simulated"]


def test_metrics_and_readiness_are_not_public(stack: NativeStack) -> None:
    assert stack.get("/metrics").status_code == 404
    assert stack.get("/readyz").status_code == 404
    assert stack.get("/healthz").status_code == 200
