"""Tasks that are computed together: who may be, and that each keeps a fate of its own whatever befalls the others."""

from __future__ import annotations

from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any

import pytest

from services.worker.errors import DrainedError, ReportedError
from services.worker.fakes import Part
from services.worker.protocol import Preview, Progress
from shared.domain.errors import RunnerCrashedError
from shared.domain.task import EventType, TaskState
from tests.support.builders import NOW, make_outcome, make_params, make_task
from tests.support.worker import WORK, Death, Fault, WorkerWorld

if TYPE_CHECKING:
    from pathlib import Path

    from shared.contracts.task import TaskMessage

CRASH = RunnerCrashedError("the child process ended with signal SIGKILL")
OUT_OF_MEMORY = ReportedError("out_of_memory", "CUDA out of memory", retryable=True, tier="resident")
REFUSED = ReportedError("invalid_parameter", "too long a prompt", retryable=False)
INVALID = ReportedError("invalid_output", "not finite", retryable=False)


def task_id(number: int) -> str:
    return f"019b8e1b-7800-7abc-8def-{number:012}"


@pytest.fixture
def world(tmp_path: Path) -> WorkerWorld:
    return WorkerWorld(tmp_path, most_together=4)


def submit(world: WorkerWorld, number: int, params: dict[str, Any] | None = None, **changes: Any) -> TaskMessage:  # noqa: ANN401 - any field
    shaped = make_params(**{"prompt": f"lighthouse {number}", "seed": 100 * number, **(params or {})})
    return world.submit(make_task(task_id=task_id(number), params=shaped, **changes))


def batches(world: WorkerWorld) -> list[int]:
    """How many requests each computation had."""
    return [len(group) for group in world.runner.batches]


def states(world: WorkerWorld, numbers: int) -> set[TaskState]:
    return {world.outcome(task_id(number)).state for number in range(numbers)}


def test_what_waits_is_computed_together_and_each_has_its_own_end(world: WorkerWorld) -> None:
    for number in range(3):
        submit(world, number, {"count": number + 1})
    world.settle()
    assert batches(world) == [3]
    for number in range(3):
        outcome = world.outcome(task_id(number))
        assert (outcome.state, outcome.attempt) == (TaskState.SUCCEEDED, 1)
        assert [artifact.seed for artifact in outcome.artifacts] == [100 * number + i for i in range(number + 1)]
        assert {artifact.key.split("/")[1] for artifact in outcome.artifacts} == {task_id(number)}
    executions = {world.outcome(task_id(number)).execution for number in range(3)}
    assert len(executions) == 3
    assert world.journal.steps.count("ack") == 3
    assert world.consumer.unsettled == 0
    assert not [path for path in world.folder.rglob("*") if path.is_file()]


def test_every_task_hears_that_it_began_and_how_far_it_is_and_only_the_first_sees_a_preview(
    world: WorkerWorld,
) -> None:
    for number in range(2):
        submit(world, number)
    world.runner.ensure_ready()
    running = world.worker.handler.handle(world.take())
    assert running is not None
    told = world.worker.events.events
    preview = Preview(media_type="image/jpeg", data="aaaa", width=1, height=1)
    running.job.on_progress(Progress(job="x", phase="denoising", step=1, steps=4, preview=preview))
    for number in range(2):
        own = [event for event in told if event.task_id == task_id(number)]
        assert [event.type for event in own].count(EventType.STARTED) == 1
        shown = [event.data.progress.preview for event in own if event.data.progress is not None]
        assert (shown[-1] is not None) == (number == 0)
    world.worker.finisher.submit(running)
    world.worker.finisher.stop()
    assert states(world, 2) == {TaskState.SUCCEEDED}


def test_a_worker_of_one_takes_no_further_message(tmp_path: Path) -> None:
    world = WorkerWorld(tmp_path)
    for number in range(2):
        submit(world, number)
    world.settle()
    assert batches(world) == [1, 1]
    assert "requeue" not in world.journal.steps


def test_no_more_are_taken_than_a_computation_holds(world: WorkerWorld) -> None:
    for number in range(6):
        submit(world, number)
    world.settle()
    assert batches(world) == [4, 2]
    assert states(world, 6) == {TaskState.SUCCEEDED}


@pytest.mark.parametrize(
    ("params", "changes"),
    [
        ({"width": 128}, {}),
        ({"height": 128}, {}),
        ({"steps": 5}, {}),
        ({"guidance": 3.0}, {}),
        ({"num_frames": 5}, {}),
        ({}, {"tenant_id": "somebody-else"}),
        ({}, {"attempt": 2}),
        ({}, {"cache_key": "seed:acme:0"}),
        ({}, {"finish_deadline": NOW}),
        ({}, {"predicted": {"gpu_seconds": 1e6, "vram_mb": 64}}),
    ],
)
def test_a_task_of_another_kind_is_put_back_at_once(
    world: WorkerWorld, params: dict[str, object], changes: dict[str, object]
) -> None:
    submit(world, 0)
    submit(world, 1, params, **changes)
    world.runner.ensure_ready()
    running = world.worker.handler.handle(world.take())
    assert running is not None
    assert running.beside == ()
    assert world.broker.depth(WORK) == 1
    assert world.consumer.unsettled == 1
    world.worker.finisher.submit(running)
    world.worker.finisher.stop()


def test_what_cannot_be_read_is_nobodys_companion(world: WorkerWorld) -> None:
    submit(world, 0)
    world.broker.publish(replace(world.broker.messages(WORK)[0], body=b"{"), timeout=1)
    world.runner.ensure_ready()
    running = world.worker.handler.handle(world.take())
    assert running is not None
    assert (running.beside, world.broker.depth(WORK)) == ((), 1)
    world.worker.finisher.submit(running)
    world.worker.finisher.stop()


def test_a_later_attempt_takes_nobody_along(world: WorkerWorld) -> None:
    submit(world, 0, attempt=2)
    submit(world, 1)
    world.settle()
    assert batches(world) == [1, 1]


def test_together_they_must_fit_into_the_memory(world: WorkerWorld) -> None:
    world.planner.together = 2
    for number in range(3):
        submit(world, number)
    world.settle()
    assert batches(world) == [2, 1]


def test_the_plan_and_the_lesson_are_those_of_all_pictures(world: WorkerWorld) -> None:
    for number in range(3):
        submit(world, number, {"count": 2})
    world.settle()
    assert [task_id for task_id, *_ in world.planner.taught] == [task_id(0)]
    assert world.planner.counts == [6]


def test_one_that_is_cancelled_stops_nobody_and_its_result_is_dropped(world: WorkerWorld) -> None:
    def cancel() -> None:
        world.quiet_records().commit(make_outcome(task=second, state=TaskState.CANCELLED))
        world.worker.handler.cancel(second.task_id)

    submit(world, 0)
    second = submit(world, 1)
    world.runner.parts = [Part(during=cancel)]
    world.settle()
    assert world.runner.interrupted == []
    assert world.outcome(task_id(0)).state is TaskState.SUCCEEDED
    assert world.outcome(task_id(1)).state is TaskState.CANCELLED
    assert {key.split("/")[1] for key in world.artifact_keys()} == {task_id(0)}
    assert world.consumer.unsettled == 0


def test_the_computation_stops_when_all_are_cancelled(world: WorkerWorld) -> None:
    tasks: list[TaskMessage] = []

    def cancel() -> None:
        for task in tasks:
            world.quiet_records().commit(make_outcome(task=task, state=TaskState.CANCELLED))
            world.worker.handler.cancel(task.task_id)

    tasks = [submit(world, number) for number in range(2)]
    world.runner.parts = [Part(during=cancel)]
    world.settle()
    assert [error.code for _, error in world.runner.interrupted] == ["cancelled"]
    assert states(world, 2) == {TaskState.CANCELLED}
    assert world.artifact_keys() == []


@pytest.mark.parametrize("error", [CRASH, OUT_OF_MEMORY, REFUSED], ids=["crash", "memory", "refused"])
def test_what_fails_together_is_tried_again_alone_and_costs_no_attempt(world: WorkerWorld, error: Any) -> None:  # noqa: ANN401 - an error
    for number in range(3):
        submit(world, number, max_attempts=1)
    world.runner.parts = [Part(computing=error)]
    world.settle()
    assert batches(world) == [3, 1, 1, 1]
    assert states(world, 3) == {TaskState.SUCCEEDED}
    retried = [event for event in world.events() if event.type is EventType.RETRYING]
    assert [event.data.error.code for event in retried if event.data.error] == ["batch_failed"] * 3


def test_one_that_is_refused_fails_alone_in_the_end(world: WorkerWorld) -> None:
    for number in range(2):
        submit(world, number)
    world.runner.parts = [Part(computing=REFUSED), Part(), Part(computing=REFUSED)]
    world.settle()
    assert world.outcome(task_id(0)).state is TaskState.SUCCEEDED
    failed = world.outcome(task_id(1))
    assert failed.state is TaskState.FAILED
    assert failed.error is not None
    assert failed.error.code == "invalid_parameter"


def test_files_of_one_that_are_wrong_do_not_fail_the_others(world: WorkerWorld) -> None:
    for number in range(2):
        submit(world, number)
    world.runner.parts = [Part(encoding=INVALID)]
    world.settle()
    assert batches(world) == [2, 1, 1]
    assert states(world, 2) == {TaskState.SUCCEEDED}


def test_want_of_memory_is_learnt_of_all_pictures(world: WorkerWorld) -> None:
    for number in range(2):
        submit(world, number)
    world.runner.parts = [Part(computing=OUT_OF_MEMORY)]
    world.settle()
    assert [task for task, _, tier in world.planner.ran_out_of if tier == "resident"] == [task_id(0)]


def test_a_drain_hands_all_back(world: WorkerWorld) -> None:
    for number in range(2):
        submit(world, number)
    world.runner.parts = [Part(during=lambda: world.worker.handler.interrupt(DrainedError("stop")))]
    world.settle()
    assert [error.code for _, error in world.runner.interrupted] == ["drained"]
    assert states(world, 2) == {TaskState.SUCCEEDED}
    retried = [event for event in world.events() if event.type is EventType.RETRYING]
    assert [event.data.error.code for event in retried if event.data.error] == ["drained"] * 2


@pytest.mark.exhaustive
@pytest.mark.parametrize("after", [False, True], ids=["before the effect", "after the effect"])
@pytest.mark.parametrize("die", [False, True], ids=["error", "death"])
@pytest.mark.parametrize("parts", [[], [Part(computing=CRASH)]], ids=["good", "crash"])
def test_a_fault_at_any_call_leaves_each_task_with_one_end(
    tmp_path: Path, parts: list[Part], die: bool, after: bool
) -> None:
    for at in count():
        world = WorkerWorld(tmp_path / str(at), most_together=2)
        for number in range(2):
            submit(world, number, max_attempts=5)
        world.runner.parts = list(parts)
        world.journal.steps.clear()
        world.journal.faults = [Fault(at, die=die, after=after)]
        world.settle()
        if world.journal.faults:
            assert at > 9
            return
        assert states(world, 2) == {TaskState.SUCCEEDED}
        assert world.consumer.unsettled == 0
        for number in range(2):
            outcome = world.outcome(task_id(number))
            assert {artifact.key for artifact in outcome.artifacts} <= set(world.keys())
            told = [event.data.outcome for event in world.ended_events() if event.task_id == task_id(number)]
            assert told
            assert all(one == outcome for one in told)
        assert not [path for path in world.folder.rglob("*") if path.is_file()]


def test_a_dead_workers_tasks_are_computed_by_the_next_one(world: WorkerWorld) -> None:
    def die() -> None:
        raise Death

    for number in range(2):
        submit(world, number)
    world.runner.parts = [Part(during=die)]
    world.settle()
    assert states(world, 2) == {TaskState.SUCCEEDED}
    assert {world.outcome(task_id(number)).attempt for number in range(2)} == {2}
