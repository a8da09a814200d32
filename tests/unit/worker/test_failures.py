"""Attempts that fail: retried, ended or parked, and what happens when the store or the broker is away meanwhile."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from services.worker.backends.base import ArtifactFile, Encoded
from services.worker.errors import DrainedError, ReportedError
from services.worker.fakes import Part, write_pictures
from services.worker.finisher import STORE_TRIES
from shared.domain.errors import RunnerCrashedError, RunnerHungError, StorageError
from shared.domain.task import EventType, TaskState
from shared.messaging import messages
from shared.messaging.topology import TASKS_DEAD
from tests.support.builders import NOW, TASK_ID, TENANT, make_outcome, make_params, make_task
from tests.support.worker import WORK

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.worker.backends.base import GenerationRequest
    from shared.contracts.outcome import Outcome
    from shared.messaging.ports import Delivery
    from tests.support.worker import WorkerWorld

CRASH = RunnerCrashedError("the child process ended with signal SIGKILL")
RETRYABLE = {
    "crashed": Part(computing=CRASH),
    "hung": Part(computing=RunnerHungError("no progress")),
    "reported": Part(computing=ReportedError("backend_error", "cuDNN", retryable=True)),
    "crashed in encode": Part(encoding=CRASH),
    "hung in encode": Part(encoding=RunnerHungError("the files were not written in time")),
    "reported in encode": Part(encoding=ReportedError("backend_error", "no space left", retryable=True)),
}


def error_code(outcome: Outcome) -> str:
    assert outcome.error is not None
    return outcome.error.code


@pytest.mark.parametrize("name", list(RETRYABLE))
def test_a_failure_that_may_pass_is_tried_again_later(world: WorkerWorld, name: str) -> None:
    world.runner.parts = [RETRYABLE[name]]
    world.submit()
    world.run()
    assert world.journal.steps[-3:] == ["publish retry.5 simulated", f"publish events retrying.{TENANT}", "ack"]
    world.settle()
    assert world.assert_at_rest(TaskState.SUCCEEDED).attempt == 2
    assert world.broker.depth(TASKS_DEAD) == 0


@pytest.mark.parametrize(("attempt", "delay"), [(1, 5), (2, 30), (3, 120), (4, 120)])
def test_the_next_attempt_keeps_everything_but_its_number(world: WorkerWorld, attempt: int, delay: int) -> None:
    task = world.submit(make_task(attempt=attempt, max_attempts=5, priority=8, callback="https://example.org/"))
    world.runner.parts = [Part(computing=CRASH)]
    world.run()
    (message,) = world.waiting(delay)
    following = task.model_copy(update={"attempt": attempt + 1})
    assert message == messages.delayed_attempt(following, delay, NOW)
    assert (message.priority, message.expiration_ms) == (8, int((task.finish_deadline - NOW).total_seconds() * 1000))
    (news,) = world.events()
    assert (news.type, news.attempt, news.data.delay_seconds) == (EventType.RETRYING, attempt + 1, delay)
    assert news.data.error is not None
    assert news.data.error.code == "runner_crashed"


def test_the_last_attempt_is_parked_then_ended_then_told_then_acked(world: WorkerWorld) -> None:
    world.runner.parts = [Part(computing=CRASH)]
    world.submit(make_task(attempt=3))
    world.run()
    assert world.journal.steps[2:] == [
        "delete artifacts",
        *(f"get claim-{number}.json" for number in (1, 2, 3)),
        "publish dead runner_crashed",
        "create outcome.json",
        f"publish events failed.{TENANT}",
        "ack",
    ]
    outcome = world.assert_at_rest(TaskState.FAILED)
    assert (error_code(outcome), outcome.attempt) == ("runner_crashed", 3)
    (parked,) = world.broker.messages(TASKS_DEAD)
    assert parked.headers["x-atelier-detail"] == CRASH.message


def test_a_task_that_fails_every_time_starts_as_often_as_it_may(world: WorkerWorld) -> None:
    world.runner.parts = [Part(computing=CRASH) for _ in range(9)]
    world.submit()
    world.settle()
    world.assert_at_rest(TaskState.FAILED)
    assert len(world.runner.requests) == 3
    assert world.broker.depth(TASKS_DEAD) == 1


def test_a_failure_past_the_finish_deadline_ends_the_task_whatever_it_was(world: WorkerWorld) -> None:
    task = make_task()

    def meanwhile() -> None:
        world.clock.now = task.finish_deadline

    world.runner.parts = [Part(computing=RunnerHungError("time limit"), during=meanwhile)]
    world.submit(task)
    world.run()
    assert error_code(world.assert_at_rest(TaskState.FAILED)) == "deadline_exceeded"
    assert world.broker.depth(TASKS_DEAD) == 0


def with_artifact(**changes: Any) -> Callable[[GenerationRequest], Encoded]:  # noqa: ANN401 - any field, any value
    def encodes(request: GenerationRequest) -> Encoded:
        encoded = write_pictures(request)
        (artifact,) = encoded.artifacts
        return replace(encoded, artifacts=(replace(artifact, **changes),))

    return encodes


def linked(request: GenerationRequest) -> Encoded:
    (request.out_dir / "0.png").symlink_to("/etc/hostname")
    file = ArtifactFile(name="0.png", media_type="image/png", width=1, height=1, seed=1)
    return Encoded(artifacts=(file,), timings={}, receipt={})


@pytest.mark.parametrize(
    "encodes",
    [
        with_artifact(name="/etc/hostname"),
        with_artifact(name="../../../../../../../../../etc/hostname"),
        with_artifact(name="missing.png"),
        with_artifact(name=""),
        with_artifact(name="."),
        with_artifact(media_type=None),
        with_artifact(fps=float("nan")),
        with_artifact(role="thumbnail"),
        linked,
        lambda request: replace(write_pictures(request), artifacts=()),
        lambda request: replace(write_pictures(request), timings={"denoise": float("nan")}),
        lambda request: replace(write_pictures(request), timings={"denoise": "long"}),  # type: ignore[dict-item] # nonsense
        lambda request: replace(write_pictures(request), receipt={"gpu": ["a", "b"]}),  # type: ignore[dict-item] # nonsense
    ],
)
def test_a_nonsensical_report_of_the_model_is_its_failure_and_not_the_workers(
    world: WorkerWorld, encodes: Callable[[GenerationRequest], Encoded]
) -> None:
    world.runner.parts = [Part(encodes=encodes)]
    world.submit(make_task(attempt=3))
    world.run()
    assert error_code(world.assert_at_rest(TaskState.FAILED)) == "backend_error"


def test_a_store_that_is_away_before_the_claim_burns_no_attempt(world: WorkerWorld) -> None:
    world.store.failures["get"] = 3
    world.submit()
    world.run()
    assert world.journal.steps[:6] == ["get outcome.json", "requeue"] * 3
    assert world.stop.waits[:4] == [0.5, 1.0, 2.0, 0.0]
    assert world.assert_at_rest(TaskState.SUCCEEDED).attempt == 1


def test_a_claim_that_the_store_refuses_burns_no_attempt(world: WorkerWorld) -> None:
    world.store.failures["create"] = 2
    world.submit()
    world.run()
    assert world.assert_at_rest(TaskState.SUCCEEDED).attempt == 1
    assert len(world.runner.requests) == 1


def test_the_pause_between_failures_grows_to_ten_seconds_and_starts_again(world: WorkerWorld) -> None:
    world.store.failures["get"] = 7
    world.submit()
    world.run()
    assert world.stop.waits == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 0.0]


def test_a_work_folder_that_cannot_be_used_burns_no_attempt(world: WorkerWorld) -> None:
    root = world.folder / "worker-1"
    root.rmdir()
    root.write_bytes(b"in the way")
    world.submit()
    delivery = world.take()
    world.worker.loop._work(delivery)
    assert world.journal.steps == ["requeue"]
    assert world.broker.depth(WORK) == 1
    root.unlink()
    world.run()
    assert world.assert_at_rest(TaskState.SUCCEEDED).attempt == 1


def test_a_picture_outlives_a_store_that_hiccups(world: WorkerWorld) -> None:
    world.store.failures["put"] = 2
    world.submit()
    world.runner.parts = [Part(during=lambda: world.store.failures.update(create=2))]
    world.run()
    assert world.slept == [0.5, 1.0, 0.5, 1.0]
    assert world.assert_at_rest(TaskState.SUCCEEDED).attempt == 1
    assert len(world.runner.requests) == 1


def test_an_artifact_that_cannot_be_stored_is_given_up_after_a_while_and_computed_again(world: WorkerWorld) -> None:
    world.store.failures["put"] = STORE_TRIES
    world.submit()
    world.run()
    assert world.slept == [0.5, 1.0, 2.0, 4.0, 8.0] + [10.0] * (STORE_TRIES - 6)
    assert sum(world.slept) > 150  # a store that is away for two minutes costs nothing
    (news,) = world.events()
    assert news.data.error is not None
    assert news.data.error.code == "artifacts_not_stored"
    world.settle()
    assert world.assert_at_rest(TaskState.SUCCEEDED).attempt == 2


@pytest.mark.parametrize("max_attempts", [1, 2])
def test_what_was_stored_of_a_failed_attempt_is_deleted(world: WorkerWorld, max_attempts: int) -> None:
    def second_is_missing(request: GenerationRequest) -> Encoded:
        encoded = write_pictures(request)
        (request.out_dir / "1.png").unlink()
        return encoded

    world.runner.parts = [Part(encodes=second_is_missing)]
    world.submit(make_task(params=make_params(count=2), max_attempts=max_attempts))
    world.settle()
    outcome = world.assert_at_rest(TaskState.SUCCEEDED if max_attempts == 2 else TaskState.FAILED)
    assert world.artifact_keys() == sorted(artifact.key for artifact in outcome.artifacts)


def test_a_store_that_goes_away_for_good_while_computing_costs_one_attempt(world: WorkerWorld) -> None:
    def breaks() -> None:
        world.store.failures.update(put=STORE_TRIES, delete=1, get=2)

    world.runner.parts = [Part(during=breaks)]
    world.submit()
    world.settle()
    assert world.assert_at_rest(TaskState.SUCCEEDED).attempt == 2
    assert world.journal.steps.count("requeue") == 2
    assert [event.data.error.code for event in world.events() if event.data.error] == ["artifacts_not_stored"]


def test_a_drained_task_is_handed_back_uncounted_though_the_store_is_away(world: WorkerWorld) -> None:
    def breaks() -> None:
        world.store.failures["delete"] = 1

    world.runner.parts = [Part(during=breaks, computing=DrainedError("the worker was told to stop"))]
    world.submit(make_task(max_attempts=1))
    world.settle()
    outcome = world.assert_at_rest(TaskState.SUCCEEDED)
    assert (outcome.attempt, outcome.task.max_attempts) == (2, 2)


def test_an_outcome_that_the_store_refuses_for_long_costs_one_attempt(world: WorkerWorld) -> None:
    world.runner.parts = [Part(during=lambda: world.store.failures.update(create=STORE_TRIES))]
    world.submit()
    world.settle()
    assert world.assert_at_rest(TaskState.SUCCEEDED).attempt == 2


def test_a_message_that_is_given_back_after_the_computation_is_not_taken_for_a_live_one(
    world: WorkerWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker may hand it to this very process before the finisher has said its last word."""
    handler, give_back = world.worker.handler, world.consumer.requeue

    def comes_back_at_once(delivery: Delivery) -> bool:
        given = give_back(delivery)
        assert handler.handle(world.take()) is None
        return given

    monkeypatch.setattr(world.consumer, "requeue", comes_back_at_once)
    world.runner.parts = [Part(during=lambda: world.store.failures.update(create=STORE_TRIES))]
    world.submit()
    world.run()
    assert world.waiting(5) == []
    assert world.assert_at_rest(TaskState.SUCCEEDED).attempt == 2


def test_an_event_that_cannot_go_out_leaves_the_message_unacked_and_the_next_delivery_tells_it(
    world: WorkerWorld,
) -> None:
    def breaks() -> None:
        world.broker.available = False

    world.runner.parts = [Part(during=breaks)]
    world.submit()
    running = world.handle()
    assert running is not None
    world.worker.finisher.submit(running)
    world.worker.finisher.stop()
    assert world.journal.steps[-2:] == [f"publish events succeeded.{TENANT}", "requeue"]
    assert world.ended_events() == []
    execution = world.outcome().execution
    world.broker.available = True
    world.run()
    assert world.assert_at_rest(TaskState.SUCCEEDED).execution == execution
    assert len(world.runner.requests) == 1


@pytest.mark.parametrize("state", [TaskState.CANCELLED, TaskState.SUCCEEDED, TaskState.FAILED])
@pytest.mark.parametrize(
    "part", [Part(), Part(computing=ReportedError("x", "no", retryable=False)), Part(computing=CRASH)]
)
def test_whoever_loses_the_race_for_the_end_deletes_its_own_artifacts_and_tells_the_winners(
    world: WorkerWorld, state: TaskState, part: Part
) -> None:
    winner = make_outcome(state=state, artifacts=())
    others = f"tasks/{TASK_ID}/1-{winner.execution}/0.png"

    def meanwhile() -> None:
        world.store.put(others, b"the winner's", media_type="image/png")
        world.records.commit(winner)

    world.runner.parts = [replace(part, during=meanwhile)]
    world.submit(make_task(max_attempts=1))
    world.settle()
    assert world.assert_at_rest(state) == winner
    assert world.artifact_keys() == [others]


def test_an_outcome_whose_answer_was_lost_is_recognised_as_ones_own(world: WorkerWorld) -> None:
    create = world.store.create

    def answer_lost(key: str, body: bytes, *, media_type: str) -> None:
        create(key, body, media_type=media_type)
        if key.endswith("outcome.json"):
            message = "no answer"
            raise StorageError(message)

    world.store.create = answer_lost  # type: ignore[method-assign] # the answer is lost on the way
    world.submit()
    world.run()
    outcome = world.assert_at_rest(TaskState.SUCCEEDED)
    assert world.artifact_keys() == [artifact.key for artifact in outcome.artifacts]
    assert "delete artifacts" not in world.journal.steps
    assert len(world.runner.requests) == 1


def test_a_worker_that_has_to_end_does_not_wait_for_the_store(world: WorkerWorld) -> None:
    world.store.failures.update(put=2, delete=1)
    world.out_of_time = True
    world.submit(make_task(max_attempts=1))
    world.run()
    assert world.slept == [0.5]
    outcome = world.assert_at_rest(TaskState.SUCCEEDED)
    # Another attempt, which does not count: neither the drain nor the store is the task's fault.
    assert (outcome.attempt, outcome.task.max_attempts) == (2, 2)
