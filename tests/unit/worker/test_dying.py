"""The process dies, or a call fails, at every single outside call from delivery to ack: the end is always the same.

Each scenario is run once for each call that it makes, before and after the call's effect, until the fault comes too
late to happen. After a death the message is redelivered to a new worker.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count, product
from typing import TYPE_CHECKING, Any

import pytest

from services.worker.errors import ReportedError
from services.worker.fakes import Part
from shared.domain.errors import RunnerCrashedError
from shared.domain.settle import ClaimMark
from shared.domain.task import TaskState
from shared.messaging.topology import STATUS_RETURNED, TASKS_DEAD
from tests.support.builders import NOW, make_claim, make_outcome, make_params, make_task
from tests.support.worker import Death, Fault, WorkerWorld

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from shared.contracts.outcome import Outcome

pytestmark = pytest.mark.exhaustive

CRASH = RunnerCrashedError("the child process ended with signal SIGKILL")
S = TaskState


def nothing(world: WorkerWorld) -> None:
    del world


def claimed_by_the_dead(world: WorkerWorld) -> None:
    world.records.claim(make_claim(worker="dead", at=NOW, run_budget_seconds=60))
    world.take()
    world.consumer.disconnect()


def marked_expired(world: WorkerWorld) -> None:
    world.records.claim(make_claim(worker="status", mark=ClaimMark.EXPIRED, run_budget_seconds=0))


def too_late(world: WorkerWorld) -> None:
    world.clock.now = make_task().start_deadline


def ended_before(world: WorkerWorld) -> None:
    world.records.commit(make_outcome(artifacts=()))


def cancelled_meanwhile(world: WorkerWorld) -> None:
    def commit() -> None:
        world.quiet_records().commit(make_outcome(state=S.CANCELLED))

    world.runner.parts = [Part(during=commit)]


@dataclass(frozen=True)
class Scenario:
    """A task, what the world is like for it, and how it may end; a fault can cost an attempt and so the last chance."""

    ends: tuple[TaskState, ...]
    changes: dict[str, Any]
    parts: Callable[[], list[Part]] = list
    before: Callable[[WorkerWorld], None] = nothing


SCENARIOS = {
    "succeeds": Scenario((S.SUCCEEDED,), {"params": make_params(count=2)}),
    "succeeds at last": Scenario((S.SUCCEEDED,), {"max_attempts": 5}, lambda: [Part(computing=CRASH)] * 2),
    "succeeds after files were lost": Scenario((S.SUCCEEDED,), {}, lambda: [Part(encoding=CRASH)]),
    "user error": Scenario((S.FAILED,), {}, lambda: [Part(computing=ReportedError("x", "no", retryable=False))] * 9),
    "given up": Scenario((S.FAILED,), {"max_attempts": 2}, lambda: [Part(computing=CRASH)] * 9),
    "one attempt only": Scenario((S.FAILED,), {"max_attempts": 1}, lambda: [Part(computing=CRASH)] * 9),
    "its worker died": Scenario((S.SUCCEEDED,), {}, before=claimed_by_the_dead),
    "its worker died at the last attempt": Scenario((S.FAILED,), {"max_attempts": 1}, before=claimed_by_the_dead),
    "marked expired": Scenario((S.EXPIRED,), {}, before=marked_expired),
    "waited too long": Scenario((S.EXPIRED,), {}, before=too_late),
    "ended before": Scenario((S.SUCCEEDED,), {}, before=ended_before),
    "cancelled meanwhile": Scenario((S.CANCELLED,), {}, before=cancelled_meanwhile),
}


def play(folder: Path, scenario: Scenario, *faults: Fault) -> WorkerWorld:
    world = WorkerWorld(folder)
    world.submit(make_task(**scenario.changes))
    world.runner.parts = scenario.parts()
    scenario.before(world)
    world.journal.steps.clear()
    world.journal.faults = list(faults)
    world.settle()
    return world


@pytest.mark.parametrize("after", [False, True], ids=["before the effect", "after the effect"])
@pytest.mark.parametrize("die", [False, True], ids=["error", "death"])
@pytest.mark.parametrize("name", list(SCENARIOS))
def test_a_fault_at_any_call_changes_nothing_in_the_end(tmp_path: Path, name: str, die: bool, after: bool) -> None:
    scenario = SCENARIOS[name]
    for at in count():
        world = play(tmp_path / str(at), scenario, Fault(at, die=die, after=after))
        if world.journal.faults:
            assert at >= 3  # get, then at least publish and ack
            return
        told = f"fault at {at} of {world.journal.steps}"
        outcome = world.assert_at_rest(*scenario.ends)
        assert world.broker.depth(STATUS_RETURNED) == 0, told
        assert attempts(world) <= outcome.task.max_attempts, told
        assert parked(world) or error_code(outcome) not in {"runner_crashed", "attempts_exhausted"}, told


@pytest.mark.parametrize("after", [False, True], ids=["before the effect", "after the effect"])
def test_two_deaths_of_three_attempts_change_nothing_either(tmp_path: Path, after: bool) -> None:
    scenario = SCENARIOS["succeeds"]
    calls = len(play(tmp_path / "calm", scenario).journal.steps)
    for first, second in product(range(calls), range(calls + 4)):
        faults = (Fault(first, die=True, after=after), Fault(first + 1 + second, die=True, after=after))
        world = play(tmp_path / f"{first}-{second}", scenario, *faults)
        outcome = world.assert_at_rest(TaskState.SUCCEEDED)
        assert attempts(world) <= 3, world.journal.steps
        assert outcome.attempt <= 3


def test_a_task_that_kills_its_workers_host_is_started_as_often_as_it_may_and_then_parked(tmp_path: Path) -> None:
    def die() -> None:
        raise Death

    world = play(tmp_path, Scenario((S.FAILED,), {}, lambda: [Part(during=die) for _ in range(9)]))
    assert len(world.runner.requests) == 3
    assert error_code(world.assert_at_rest(TaskState.FAILED)) == "attempts_exhausted"
    assert parked(world) == 1


def attempts(world: WorkerWorld) -> int:
    return sum("/claim-" in key for key in world.keys())  # noqa: SIM118 - a method, not a dict


def parked(world: WorkerWorld) -> int:
    return world.broker.depth(TASKS_DEAD)


def error_code(outcome: Outcome) -> str | None:
    return None if outcome.error is None else outcome.error.code
