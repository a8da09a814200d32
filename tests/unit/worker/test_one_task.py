"""One delivery from arrival to ack, when nothing goes wrong but what a task itself can bring."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from services.worker.backends.base import ArtifactFile, Encoded
from services.worker.errors import ReportedError
from services.worker.fakes import Part
from services.worker.job import Limits
from shared.domain.task import EventType, TaskState
from tests.support.builders import NOW, TASK_ID, TENANT, make_outcome, make_params, make_task, outbound
from tests.support.worker import WORK

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.worker.backends.base import GenerationRequest
    from tests.support.worker import WorkerWorld

HAPPY = [
    "get outcome.json",
    "create claim-1.json",
    "put 0.png",
    "create outcome.json",
    f"publish events succeeded.{TENANT}",
    "ack",
]


def test_a_task_is_claimed_stored_committed_told_and_acked_in_this_order(world: WorkerWorld) -> None:
    world.submit()
    world.run()
    assert world.journal.steps == HAPPY
    world.assert_at_rest(TaskState.SUCCEEDED)


def test_the_outcome_says_what_was_made_by_whom_and_how(world: WorkerWorld) -> None:
    task = world.submit(make_task(params=make_params(count=2, seed=40)))
    world.pass_time(3)
    world.run()
    outcome = world.outcome()
    claim = world.records.find_claim(TASK_ID, 1)
    assert claim is not None
    assert (outcome.task, outcome.attempt, outcome.execution) == (task, 1, claim.execution)
    assert (outcome.worker, outcome.started_at, outcome.error) == (claim.worker, claim.at, None)
    assert outcome.receipt == {"model": "fake", "backend": "fake"}
    assert outcome.timings["queued"] == 3.0
    assert {"load", "denoise", "store", "total"} <= set(outcome.timings)
    bodies = [f"picture {seed} of {TASK_ID}".encode() for seed in (40, 41)]
    assert [world.store.get(artifact.key) for artifact in outcome.artifacts] == bodies
    assert [a.sha256 for a in outcome.artifacts] == [hashlib.sha256(body).hexdigest() for body in bodies]
    assert [(a.bytes, a.seed) for a in outcome.artifacts] == [(len(bodies[0]), 40), (len(bodies[1]), 41)]
    assert [a.key for a in outcome.artifacts] == [f"tasks/{TASK_ID}/1-{claim.execution}/{n}.png" for n in (0, 1)]


def with_poster(request: GenerationRequest) -> Encoded:
    (request.out_dir / "0.mp4").write_bytes(b"video")
    (request.out_dir / "0.png").write_bytes(b"poster")
    size: dict[str, Any] = {"width": request.width, "height": request.height, "seed": request.seeds[0]}
    video = ArtifactFile(name="0.mp4", media_type="video/mp4", frames=9, fps=8.0, **size)
    poster = ArtifactFile(name="0.png", media_type="image/png", role="poster", **size)
    return Encoded(artifacts=(video, poster), timings={}, receipt={})


def test_a_video_is_the_first_file_of_its_outcome_and_its_poster_says_that_it_is_one(world: WorkerWorld) -> None:
    world.runner.parts = [Part(encodes=with_poster)]
    world.submit()
    world.run()
    video, poster = world.outcome().artifacts
    assert (video.media_type, video.frames, video.fps, video.role) == ("video/mp4", 9, 8.0, None)
    assert (poster.media_type, poster.frames, poster.fps, poster.role) == ("image/png", 1, None, "poster")
    assert [world.store.get(artifact.key) for artifact in (video, poster)] == [b"video", b"poster"]
    assert [artifact.key.rpartition("/")[2] for artifact in (video, poster)] == ["0.mp4", "1.png"]


def test_the_model_gets_the_request_as_it_was_resolved(world: WorkerWorld) -> None:
    params = make_params(prompt="<n>$x$</n> a & b", prompt_format="xml", negative_prompt="blur", count=2, guidance=3.5)
    world.submit(make_task(params=params))
    world.run()
    (request,) = world.runner.requests
    for name in ("prompt", "prompt_format", "negative_prompt", "width", "height", "steps", "guidance", "seeds"):
        assert getattr(request, name) == getattr(params, name)
    assert request.out_dir.is_relative_to(world.folder)


def test_started_and_progress_are_numbered_in_order_and_the_end_is_published(world: WorkerWorld) -> None:
    worker = world.worker
    task = world.submit()
    world.run()
    offered = sorted(worker.events.events, key=lambda event: event.sequence)
    assert [event.type for event in offered] == [EventType.STARTED] + [EventType.PROGRESS] * 6
    assert [event.sequence for event in offered] == list(range(1, 8))
    assert offered[0].data.task == task
    phases = [(p.phase, p.step, p.steps) for event in offered if (p := event.data.progress) is not None]
    assert phases == [
        ("encoding", 0, 0),
        *(("denoising", step, 4) for step in (1, 2, 3, 4)),
        ("storing", 0, 0),
    ]
    (ended,) = world.events()
    assert ended.type is EventType.SUCCEEDED
    assert ended.sequence > offered[-1].sequence


@pytest.mark.parametrize("state", [TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED, TaskState.EXPIRED])
def test_a_task_that_has_ended_is_told_again_and_acked_and_nothing_is_computed(
    world: WorkerWorld, state: TaskState
) -> None:
    world.records.commit(make_outcome(state=state, artifacts=()))
    world.journal.steps.clear()
    world.submit()
    world.run()
    assert world.journal.steps == ["get outcome.json", f"publish events {state}.{TENANT}", "ack"]
    assert world.runner.requests == []
    world.assert_at_rest(state)


@pytest.mark.parametrize("code", ["invalid_parameter", "cancelled"])
def test_an_error_that_cannot_pass_ends_the_task_at_once_and_parks_nothing(world: WorkerWorld, code: str) -> None:
    world.runner.parts = [Part(computing=ReportedError(code, "no", retryable=False))]
    world.submit()
    world.run()
    end = ["delete artifacts", "create outcome.json", f"publish events failed.{TENANT}", "ack"]
    assert world.journal.steps == [*HAPPY[:2], *end]
    outcome = world.assert_at_rest(TaskState.FAILED)
    assert outcome.error is not None
    assert (outcome.error.code, outcome.error.message) == (code, "no")
    assert world.broker.depth("tasks.dead") == 0


def test_a_body_that_is_no_task_goes_back_to_the_broker_and_the_worker_goes_on(world: WorkerWorld) -> None:
    for body in (b"", b"\xff\xfe", b"{}", b"[]", b'{"schema": 1, "task_id": "../../etc"}'):
        world.broker.publish(outbound("atelier.tasks", "simulated", body, message_id="bad", priority=9), timeout=1)
    world.submit()
    world.run()
    assert world.journal.steps == ["reject"] * 5 + HAPPY
    assert world.broker.depth("status.returned") == 5
    world.assert_at_rest(TaskState.SUCCEEDED)


def test_a_task_of_a_newer_schema_waits_for_newer_software_as_it_is(world: WorkerWorld) -> None:
    body = b'{"schema": 99, "what": "is this"}'
    message = outbound("atelier.tasks", "simulated", body, message_id="m-1", priority=7, headers={"traceparent": "00"})
    world.broker.publish(message, timeout=1)
    world.run()
    assert world.journal.steps == ["publish retry.30 simulated", "ack"]
    (copy,) = world.waiting(30)
    assert (copy.body, copy.message_id, copy.priority, copy.headers) == (body, "m-1", 7, {"traceparent": "00"})


@pytest.mark.parametrize("name", ["outcome", "claim-1"])
@pytest.mark.parametrize(("body", "fate"), [(b"not json", "reject"), (b'{"schema": 99}', "ack")])
def test_a_record_that_cannot_be_read_is_nobodys_end(world: WorkerWorld, name: str, body: bytes, fate: str) -> None:
    world.store.put(f"tasks/{TASK_ID}/{name}.json", body, media_type="application/json")
    world.submit()
    world.run()
    assert world.journal.steps[-1] == fate
    assert world.runner.requests == []
    assert (world.broker.depth("status.returned"), len(world.waiting(30))) == ((1, 0) if fate == "reject" else (0, 1))


def test_the_limits_follow_from_the_predicted_work_and_end_with_the_finish_deadline(world: WorkerWorld) -> None:
    def limits(gpu_seconds: float, seconds_left: float) -> Limits:
        finish = NOW + timedelta(seconds=seconds_left)
        predicted = {"gpu_seconds": gpu_seconds, "vram_mb": 1}
        task_id = f"019b8e1b-7800-7abc-8def-{len(world.runner.limits):012}"
        world.submit(make_task(task_id=task_id, finish_deadline=finish, predicted=predicted))
        world.run()
        return world.runner.limits[-1]

    assert limits(0.5, 1800) == Limits(silence_seconds=60.25, total_seconds=120.0, most_seconds=1800.0)
    assert limits(100.0, 1800) == Limits(silence_seconds=250.25, total_seconds=1000.0, most_seconds=1800.0)
    assert limits(100.0, 700) == Limits(silence_seconds=250.25, total_seconds=700.0, most_seconds=700.0)


def test_every_line_about_a_task_carries_its_context(
    world: WorkerWorld, logged: Callable[[], list[dict[str, Any]]]
) -> None:
    task = world.submit(make_task(attempt=2))
    world.run()
    world.submit(make_task(task_id="019b8e1b-7800-7abc-8def-000000000000", request_id="request-0002"))
    world.run()
    lines = logged()
    assert {"delivery_taken", "task_started", "artifacts_stored", "task_settled"} <= {line["message"] for line in lines}
    for line in lines:
        first = line["task_id"] == task.task_id
        assert line["tenant_id"] == TENANT
        assert line["request_id"] == ("request-0001" if first else "request-0002")
        assert line["trace.id"] == "0af7651916cd43dd8448eb211c80319c"
        assert line["attempt"] == (2 if first else 1)


@pytest.mark.parametrize(
    "part",
    [
        Part(),
        Part(computing=ReportedError("invalid_parameter", "no", retryable=False)),
        Part(computing=ReportedError("backend_error", "no", retryable=True)),
        Part(encoding=ReportedError("backend_error", "no", retryable=True)),
    ],
)
def test_nothing_is_left_of_a_tasks_folder_however_it_ends(world: WorkerWorld, part: Part) -> None:
    seen = []
    part.during = lambda: seen.append(world.runner.requests[-1].out_dir.is_dir())
    world.runner.parts = [part]
    world.submit()
    world.run()
    assert seen == [True]
    assert [path.name for path in world.folder.rglob("*")] == ["worker-1"]


def test_nothing_is_left_of_a_tasks_folder_when_another_holds_the_claim(world: WorkerWorld) -> None:
    first = world.submit()
    world.handle()
    assert len(list(world.folder.rglob("1-*"))) == 1
    world.submit(first)
    world.handle()
    assert len(list(world.folder.rglob("1-*"))) == 1


def test_the_queue_is_worked_off_by_priority(world: WorkerWorld) -> None:
    ids = [f"019b8e1b-7800-7abc-8def-{number:012}" for number in range(3)]
    for task_id, priority in zip(ids, (1, 9, 5), strict=True):
        world.submit(make_task(task_id=task_id, priority=priority))
    world.run()
    assert [request.task_id for request in world.runner.requests] == [ids[1], ids[2], ids[0]]
    assert world.broker.depth(WORK) == 0
