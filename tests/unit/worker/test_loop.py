from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from services.worker.errors import RunnerLoadError, WorkFolderError
from services.worker.fakes import FakePlanner, Part
from shared.domain.errors import ConfigurationError, RunnerCrashedError
from shared.domain.task import TaskState
from shared.lifecycle import ExitCode
from tests.support.builders import make_task
from tests.support.worker import WORK, QuickStop

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.worker.ports import Plan
    from shared.contracts.task import TaskMessage
    from shared.messaging.ports import Delivery
    from tests.support.worker import WorkerWorld

PATIENCE = 10


def task_id(number: int) -> str:
    return f"019b8e1b-7800-7abc-8def-{number:012}"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RunnerLoadError("the child process died 6 times"), ExitCode.RUNNER),
        (ConfigurationError("the model cannot be loaded"), ExitCode.CONFIGURATION),
        (WorkFolderError("no space left on device"), ExitCode.DEPENDENCY),
    ],
)
def test_a_model_that_does_not_come_up_ends_the_worker_with_a_code_and_takes_nothing(
    world: WorkerWorld, error: Exception, code: ExitCode
) -> None:
    world.runner.broken = error
    world.submit()
    stop = QuickStop()
    world.worker.loop.run(stop)
    assert stop.exit_code is code
    assert (world.journal.steps, world.broker.depth(WORK)) == ([], 1)


def test_a_dead_child_is_started_again_before_the_next_task_is_taken(world: WorkerWorld) -> None:
    world.runner.parts = [Part(computing=RunnerCrashedError("signal SIGKILL"))]
    for number in range(3):
        world.submit(make_task(task_id=task_id(number)))
    world.settle()
    assert world.runner.starts == 2
    assert all(world.outcome(task_id(number)).state is TaskState.SUCCEEDED for number in range(3))


def test_a_child_that_dies_while_nothing_is_to_be_done_costs_the_next_task_no_attempt(world: WorkerWorld) -> None:
    take = world.consumer.take

    def dies_meanwhile(timeout: float) -> Delivery | None:
        delivery = take(timeout)
        world.runner.ready = world.runner.starts > 1
        return delivery

    world.consumer.take = dies_meanwhile  # type: ignore[method-assign] # a child dies in between
    world.submit()
    world.settle()
    assert world.runner.starts == 2
    assert world.outcome().attempt == 1
    assert world.journal.steps[0] == "requeue"


def test_the_next_task_computes_while_the_one_before_is_being_stored(world: WorkerWorld) -> None:
    storing, release = threading.Event(), threading.Event()
    put = world.store.put

    def slow_put(key: str, body: bytes, *, media_type: str) -> None:
        storing.set()
        assert release.wait(PATIENCE)
        put(key, body, media_type=media_type)

    def second_computes() -> None:
        assert storing.wait(PATIENCE)
        assert world.artifact_keys() == []
        release.set()

    world.store.put = slow_put  # type: ignore[method-assign] # a slow store
    world.runner.parts = [Part(), Part(during=second_computes)]
    for number in range(2):
        world.submit(make_task(task_id=task_id(number)))
    world.run()
    assert len(world.artifact_keys()) == 2


def test_tasks_are_finished_one_after_the_other_in_order(world: WorkerWorld) -> None:
    for number in range(5):
        world.submit(make_task(task_id=task_id(number)))
    world.run()
    finishing = [step for step in world.journal.steps if step in {"put 0.png", "create outcome.json", "ack"}]
    assert finishing == ["put 0.png", "create outcome.json", "ack"] * 5


def test_a_stop_lets_the_running_task_end_and_takes_no_further_one(world: WorkerWorld) -> None:
    world.runner.parts = [Part(during=lambda: world.consumer.stop.request())]  # noqa: PLW0108 - the attribute of then, not of now
    for number in range(2):
        world.submit(make_task(task_id=task_id(number)))
    world.consumer.stop = world.stop
    world.worker.loop.run(world.stop)
    assert world.stop.exit_code is ExitCode.OK
    assert world.outcome(task_id(0)).state is TaskState.SUCCEEDED
    assert world.broker.depth(WORK) == 1
    assert world.consumer.unsettled == 0


def test_a_stop_while_the_model_loads_takes_no_task(world: WorkerWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world.submit()
    stop = QuickStop()
    monkeypatch.setattr(world.runner, "ensure_ready", stop.request)
    world.worker.loop.run(stop)
    assert (world.journal.steps, world.broker.depth(WORK)) == ([], 1)


def test_a_child_that_dies_while_its_task_waits_for_room_burns_no_attempt(
    world: WorkerWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = FakePlanner.plan

    def die_meanwhile(planner: FakePlanner, task: TaskMessage) -> Plan | None:
        world.runner.ready = len(planner.asked) > 0
        return plan(planner, task)

    monkeypatch.setattr(FakePlanner, "plan", die_meanwhile)
    world.submit()
    world.settle()
    assert world.assert_at_rest(TaskState.SUCCEEDED).attempt == 1
    assert len(world.planner.asked) == 2


def test_an_error_nobody_expected_ends_the_worker_after_what_was_being_finished(
    world: WorkerWorld,
) -> None:
    def trip() -> None:
        raise ZeroDivisionError

    world.runner.parts = [Part(), Part(during=trip)]
    for number in range(2):
        world.submit(make_task(task_id=task_id(number)))
    with pytest.raises(ZeroDivisionError):
        world.worker.loop.run(QuickStop())
    assert world.outcome(task_id(0)).state is TaskState.SUCCEEDED
    with pytest.raises(RuntimeError, match="after shutdown"):
        world.worker.finisher._pool.submit(trip)


def test_busy_time_ends_and_failures_are_counted(world: WorkerWorld) -> None:
    worker = world.worker
    world.runner.parts = [Part(computing=RunnerCrashedError("signal SIGKILL"))]
    for number in range(2):
        world.submit(make_task(task_id=task_id(number)))
    world.run()
    registry = worker.metrics.registry
    assert registry.get_sample_value("atelier_worker_tasks_ended_total", {"state": "succeeded"}) == 1
    assert registry.get_sample_value("atelier_worker_attempts_failed_total", {"code": "runner_crashed"}) == 1
    assert registry.get_sample_value("atelier_worker_computing") == 0
    assert (registry.get_sample_value("atelier_worker_busy_seconds_total") or 0) > 0


def test_lines_after_a_failed_delivery_do_not_carry_its_task(
    world: WorkerWorld, logged: Callable[[], list[dict[str, Any]]]
) -> None:
    def next_round(seconds: float) -> bool:
        world.runner.broken = ConfigurationError("gone") if world.store.failures.get("create") == 0 else None
        return seconds < 0

    world.store.failures["create"] = 1
    world.submit()
    world.stop = world.consumer.stop = QuickStop()
    world.stop.wait = next_round  # type: ignore[method-assign] # looks in between
    world.worker.loop.run(world.stop)
    lines = {line["message"]: line for line in logged()}
    assert "task_id" in lines["delivery_failed"]
    assert "task_id" not in lines["runner_unavailable"]
