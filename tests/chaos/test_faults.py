"""Two hundred accepted tasks while parts of the suite die: each ends succeeded, once, and nothing is left over."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

import pytest

from shared.contracts.base import decode
from shared.contracts.outcome import Outcome
from shared.domain.task import TaskState
from tests.chaos.faults import FAULTS, FaultRun
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.support.native import NativeStack

TASKS = 200
SETTLE_SECONDS = 240


def test_accepted_tasks_survive_every_fault_in_one_run(simulated_stack: NativeStack) -> None:
    run = FaultRun(simulated_stack, random.Random(20261121))  # noqa: S311 - a seed, so that a failure can be repeated
    run.submit_while(TASKS, faults=list(FAULTS))
    assert_all_ended_once(simulated_stack, run)


@pytest.mark.faults
def test_accepted_tasks_survive_every_fault_with_quorum_queues(quorum_stack: NativeStack) -> None:
    run = FaultRun(quorum_stack, random.Random(20261123))  # noqa: S311 - as above
    run.submit_while(TASKS, faults=list(FAULTS))
    assert_all_ended_once(quorum_stack, run)


@pytest.mark.faults
@pytest.mark.parametrize("fault", list(FAULTS))
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_accepted_tasks_survive(simulated_stack: NativeStack, fault: str, seed: int) -> None:
    run = FaultRun(simulated_stack, random.Random(seed))  # noqa: S311 - as above
    run.submit_while(TASKS, faults=[fault, fault])
    assert_all_ended_once(simulated_stack, run)


@pytest.mark.faults
@pytest.mark.parametrize("seed", [11, 12, 13, 14, 15])
def test_accepted_tasks_survive_faults_in_any_order(simulated_stack: NativeStack, seed: int) -> None:
    run = FaultRun(simulated_stack, random.Random(seed))  # noqa: S311 - as above
    faults = list(FAULTS) * 2
    run.random.shuffle(faults)
    run.submit_while(TASKS, faults=faults)
    assert_all_ended_once(simulated_stack, run)


def assert_all_ended_once(stack: NativeStack, run: FaultRun) -> None:
    assert len(run.accepted) == TASKS
    assert len(set(run.accepted)) == TASKS
    until(lambda: run.ended() >= TASKS, SETTLE_SECONDS, "an outcome of every accepted task")
    for task_id in run.accepted:
        outcome = decode(Outcome, stack.store.get(f"tasks/{task_id}/outcome.json"))
        assert outcome.state is TaskState.SUCCEEDED, (task_id, outcome.error)
        for artifact in outcome.artifacts:
            assert hashlib.sha256(stack.store.get(artifact.key)).hexdigest() == artifact.sha256
    until(lambda: stack.queue_depths() == {}, SETTLE_SECONDS, "empty queues: nothing left waiting, unacked or parked")
    for task_id in run.accepted:
        until(lambda task_id=task_id: run.is_final(task_id), SETTLE_SECONDS, f"the final state of {task_id}")  # type: ignore[misc] # mypy cannot infer a lambda with a default
        assert run.state_of(task_id) == "succeeded"
    run.report()
