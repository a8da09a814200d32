"""What a worker writes into the letter of a task that it gives up."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from services.worker.errors import ReportedError
from services.worker.fakes import Part
from shared.contracts.base import decode
from shared.contracts.dead import DeadAttempt, DeadLetter
from shared.contracts.outcome import ErrorInfo
from shared.domain.errors import RunnerCrashedError
from shared.domain.task import TaskState
from shared.messaging.topology import TASKS_DEAD
from shared.storage.attempts import MOST_ATTEMPTS, attempts_of
from shared.storage.memory import MemoryStore
from shared.storage.records import JSON, TaskRecords, claim_key
from tests.support.builders import NOW, TASK_ID, WORKER, make_claim, make_task

if TYPE_CHECKING:
    from tests.support.worker import WorkerWorld

CRASH = RunnerCrashedError("the child process ended with signal SIGKILL")
CRASHED = ErrorInfo(code="runner_crashed", message=CRASH.message)


def letter_of(world: WorkerWorld) -> DeadLetter:
    (message,) = world.broker.messages(TASKS_DEAD)
    return decode(DeadLetter, message.body)


def test_the_letter_holds_the_task_and_each_attempt_that_was_started(world: WorkerWorld) -> None:
    world.runner.parts = [Part(computing=CRASH) for _ in range(3)]
    task = world.submit()
    world.settle()
    outcome = world.assert_at_rest(TaskState.FAILED)
    letter = letter_of(world)
    assert letter.task == task.model_copy(update={"attempt": 3})
    claims = [world.records.find_claim(TASK_ID, number) for number in (1, 2, 3)]
    assert letter.attempts == tuple(
        DeadAttempt(
            number=claim.attempt,
            worker=WORKER,
            execution=claim.execution,
            started_at=claim.at,
            error=CRASHED if claim.attempt == 3 else None,
        )
        for claim in claims
        if claim is not None
    )
    assert len(letter.attempts) == 3
    assert letter.attempts[-1].execution == outcome.execution
    assert (letter.parked_by, letter.parked_at) == (WORKER, world.clock.now)
    assert (letter.reason, letter.last_error, letter.stack) == ("runner_crashed", CRASHED, None)


def test_the_stack_that_the_child_sent_is_kept(world: WorkerWorld) -> None:
    stack = "Traceback (most recent call last):\nRuntimeError: cuDNN"
    world.runner.parts = [Part(computing=ReportedError("backend_error", "cuDNN", retryable=True, stack=stack))]
    world.submit(make_task(attempt=3))
    world.settle()
    assert letter_of(world).stack == stack


def test_an_attempt_whose_worker_died_is_told_with_that_reason(world: WorkerWorld) -> None:
    world.records.claim(make_claim(attempt=3, worker="dead", at=NOW - timedelta(days=1), run_budget_seconds=1))
    world.submit(make_task(attempt=3))
    world.settle()
    (attempt,) = letter_of(world).attempts
    assert (attempt.number, attempt.worker) == (3, "dead")
    assert attempt.error is not None
    assert attempt.error.code == letter_of(world).reason == "attempts_exhausted"


@pytest.fixture
def records() -> TaskRecords:
    return TaskRecords(MemoryStore())


def test_a_claim_that_cannot_be_read_is_a_gap_and_no_obstacle(records: TaskRecords) -> None:
    records.claim(make_claim(attempt=1))
    records.store.put(claim_key(TASK_ID, 2), b"garbage", media_type=JSON)
    records.store.put(claim_key(TASK_ID, 3), b"garbage", media_type=JSON)
    found = attempts_of(records, make_task(attempt=3), CRASHED)
    assert [(each.number, each.worker, each.error) for each in found] == [(1, WORKER, None), (3, None, CRASHED)]


def test_of_very_many_attempts_the_latest_are_told(records: TaskRecords) -> None:
    for number in range(1, 51):
        records.claim(make_claim(attempt=number))
    found = attempts_of(records, make_task(attempt=50, max_attempts=50), CRASHED)
    assert [each.number for each in found] == list(range(51 - MOST_ATTEMPTS, 51))
