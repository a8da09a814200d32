"""Deliveries whose attempt somebody else has claimed, or which come too late."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from services.worker.fakes import Part
from shared.contracts.outcome import Lease
from shared.domain.settle import ClaimMark
from shared.domain.task import EventType, TaskState
from shared.messaging import messages
from shared.messaging.topology import TASKS_DEAD
from tests.support.builders import EXECUTION, NOW, TASK_ID, TENANT, make_claim, make_outcome, make_task
from tests.support.worker import WORK

if TYPE_CHECKING:
    from datetime import datetime

    from shared.contracts.outcome import Claim, Outcome
    from shared.domain.settle import Claimant
    from tests.support.worker import WorkerWorld

ELSEWHERE = "worker-2"


def claimed_elsewhere(world: WorkerWorld, **changes: object) -> None:
    world.records.claim(make_claim(**{"worker": ELSEWHERE, "at": NOW, **changes}))
    world.journal.steps.clear()


def redeliver(world: WorkerWorld) -> None:
    """As if the connection that held the message had broken."""
    world.take()
    world.consumer.disconnect()


def test_a_fresh_copy_of_a_task_that_runs_elsewhere_waits_as_it_is(world: WorkerWorld) -> None:
    claimed_elsewhere(world)
    task = world.submit()
    world.run()
    assert world.journal.steps[-2:] == ["publish retry.30 simulated", "ack"]
    (copy,) = world.waiting(30)
    assert (copy.body, copy.priority) == (messages.new_task(task, NOW).body, task.priority)
    assert world.runner.requests == []


def test_a_redelivered_task_starts_its_next_attempt_at_once_since_its_worker_is_gone(world: WorkerWorld) -> None:
    claimed_elsewhere(world)
    task = world.submit()
    redeliver(world)
    assert world.handle() is None
    assert world.journal.steps[-3:] == ["publish requeue simulated", f"publish events retrying.{TENANT}", "ack"]
    (message,) = world.broker.messages(WORK)
    assert message == messages.next_attempt(task.model_copy(update={"attempt": 2}), NOW)
    (news,) = world.events()
    assert (news.type, news.attempt) == (EventType.RETRYING, 2)
    assert news.data.error is not None
    assert news.data.error.code == "worker_lost"
    world.settle()
    assert world.assert_at_rest(TaskState.SUCCEEDED).attempt == 2


def leased(world: WorkerWorld, *executions: str, age: float = 0.0) -> None:
    lease = Lease(worker=ELSEWHERE, at=world.clock() - timedelta(seconds=age), executions=executions)
    world.quiet_records().renew(lease)


@pytest.mark.parametrize("attempt", [1, 3])
def test_a_redelivered_task_whose_worker_lives_on_waits_for_it(world: WorkerWorld, attempt: int) -> None:
    """The broker restarted, or the connection broke: the worker computes on, and no attempt is burnt."""
    claimed_elsewhere(world, attempt=attempt)
    leased(world, EXECUTION)
    world.submit(make_task(attempt=attempt))
    redeliver(world)
    world.run()
    assert world.journal.steps[-2:] == ["publish retry.30 simulated", "ack"]
    assert world.runner.requests == []


def test_a_claim_younger_than_its_owners_lease_waits_for_the_next_lease(world: WorkerWorld) -> None:
    claimed_elsewhere(world)
    leased(world, age=3)
    world.submit()
    redeliver(world)
    world.run()
    assert world.journal.steps[-2:] == ["publish retry.5 simulated", "ack"]


@pytest.mark.parametrize("news", ["restarted", "silent"])
def test_a_worker_whose_lease_lists_it_no_more_or_ran_out_is_gone(world: WorkerWorld, news: str) -> None:
    claimed_elsewhere(world)
    world.submit()
    redeliver(world)
    world.pass_time(30)
    if news == "restarted":
        leased(world)
    else:
        leased(world, EXECUTION, age=21)
    world.settle()
    assert world.assert_at_rest(TaskState.SUCCEEDED).attempt == 2


def test_an_outcome_that_came_while_the_lease_was_read_is_the_end(world: WorkerWorld) -> None:
    task = world.submit(make_task(attempt=3))
    claimed_elsewhere(world, attempt=3)
    redeliver(world)
    claimant = world.records.claimant

    def slow(claim: Claim, now: datetime) -> Claimant:
        world.quiet_records().commit(make_outcome(task=task, artifacts=(), attempt=3))
        return claimant(claim, now)

    world.records.claimant = slow  # type: ignore[method-assign] # a moment between two reads
    world.run()
    world.assert_at_rest(TaskState.SUCCEEDED)
    assert world.broker.messages(TASKS_DEAD) == []


def test_a_claim_past_its_budget_is_a_dead_one_even_for_a_fresh_copy(world: WorkerWorld) -> None:
    claimed_elsewhere(world, run_budget_seconds=60.0)
    world.submit()
    world.pass_time(60)
    world.run()
    assert len(world.waiting(30)) == 1  # not past it yet
    world.settle()
    assert world.assert_at_rest(TaskState.SUCCEEDED).attempt == 2


def test_a_copy_of_what_this_very_process_is_finishing_waits_a_little(world: WorkerWorld) -> None:
    task = world.submit()
    running = world.handle()
    assert running is not None
    world.consumer.disconnect()
    assert world.handle() is None
    assert world.journal.steps[-2:] == ["publish retry.5 simulated", "ack"]
    world.worker.vigil.let_go(running.execution.execution_id)
    world.submit(task)
    assert world.handle() is None
    assert world.journal.steps[-2:] == ["publish retry.30 simulated", "ack"]


@pytest.mark.parametrize("redelivered", [False, True])
def test_an_expiry_mark_is_completed_by_whoever_finds_it(world: WorkerWorld, redelivered: bool) -> None:
    claimed_elsewhere(world, mark=ClaimMark.EXPIRED, worker="status", run_budget_seconds=0)
    world.submit()
    if redelivered:
        redeliver(world)
    world.run()
    outcome = world.assert_at_rest(TaskState.EXPIRED)
    assert outcome.error is not None
    assert outcome.error.code == "expired"
    assert world.runner.requests == []


def test_an_expiry_mark_on_a_later_attempt_means_a_missed_finish(world: WorkerWorld) -> None:
    claimed_elsewhere(world, mark=ClaimMark.EXPIRED, worker="status", run_budget_seconds=0, attempt=2)
    world.submit(make_task(attempt=2))
    world.run()
    outcome = world.assert_at_rest(TaskState.FAILED)
    assert outcome.error is not None
    assert outcome.error.code == "deadline_exceeded"


def test_the_last_attempt_that_died_is_parked_then_ended_then_told_then_acked(world: WorkerWorld) -> None:
    claimed_elsewhere(world, attempt=3)
    task = world.submit(make_task(attempt=3))
    redeliver(world)
    world.run()
    assert world.journal.steps[-4:] == [
        "publish dead attempts_exhausted",
        "create outcome.json",
        f"publish events failed.{TENANT}",
        "ack",
    ]
    outcome = world.assert_at_rest(TaskState.FAILED)
    assert outcome.error is not None
    assert outcome.error.code == "attempts_exhausted"
    # The lost execution must not take this outcome for its own, should it live after all.
    assert outcome.execution != EXECUTION
    (parked,) = world.broker.messages(TASKS_DEAD)
    assert parked.message_id == task.task_id
    assert parked.headers["x-atelier-reason"] == "attempts_exhausted"


def test_a_task_that_waited_too_long_is_marked_before_it_is_ended(world: WorkerWorld) -> None:
    task = world.submit()
    world.clock.now = task.start_deadline
    world.run()
    assert world.journal.steps == [
        "get outcome.json",
        "create claim-1.json",
        "create outcome.json",
        f"publish events expired.{TENANT}",
        "ack",
    ]
    claim = world.records.find_claim(TASK_ID, 1)
    assert claim is not None
    assert claim.mark is ClaimMark.EXPIRED
    world.assert_at_rest(TaskState.EXPIRED)


@pytest.mark.parametrize("past", ["start_deadline", "finish_deadline"])
def test_a_task_whose_worker_died_after_a_start_in_time_goes_on_past_the_start_deadline(
    world: WorkerWorld, past: str
) -> None:
    claimed_elsewhere(world, at=NOW + timedelta(seconds=1), run_budget_seconds=3600.0)
    task = world.submit()
    redeliver(world)
    world.clock.now = getattr(task, past)
    world.settle()
    if past == "start_deadline":
        assert world.assert_at_rest(TaskState.SUCCEEDED).attempt == 2
    else:
        assert code_of(world.assert_at_rest(TaskState.FAILED)) == "deadline_exceeded"


def test_a_stale_copy_past_the_start_deadline_waits_for_the_one_that_runs(world: WorkerWorld) -> None:
    claimed_elsewhere(world, at=NOW + timedelta(seconds=1), run_budget_seconds=3600.0)
    task = world.submit()
    world.clock.now = task.start_deadline
    world.run()
    assert len(world.waiting(30)) == 1
    world.records.commit(make_outcome(task=task, artifacts=()))
    world.settle()
    assert world.assert_at_rest(TaskState.SUCCEEDED).execution == EXECUTION
    assert world.runner.requests == []


def test_a_later_attempt_past_the_finish_deadline_fails_without_a_start(world: WorkerWorld) -> None:
    task = world.submit(make_task(attempt=2))
    world.clock.now = task.finish_deadline
    world.run()
    assert code_of(world.assert_at_rest(TaskState.FAILED)) == "deadline_exceeded"
    assert world.records.find_claim(TASK_ID, 2) is None


def test_a_later_attempt_may_start_past_the_start_deadline(world: WorkerWorld) -> None:
    task = world.submit(make_task(attempt=2))
    world.clock.now = task.start_deadline
    world.run()
    world.assert_at_rest(TaskState.SUCCEEDED)


def test_two_workers_with_a_copy_each_compute_it_once(world: WorkerWorld) -> None:
    task = make_task()

    def meanwhile() -> None:
        world.submit(task)
        other = world.new_worker(ELSEWHERE)
        assert other.handler.handle(world.take()) is None

    world.runner.parts = [Part(during=meanwhile)]
    world.submit(task)
    world.settle()
    world.assert_at_rest(TaskState.SUCCEEDED)
    assert len(world.runner.requests) == 1


def test_two_workers_after_a_broker_restart_may_both_compute_but_end_it_once(world: WorkerWorld) -> None:
    """The first one lives on without its connection; the second believes it dead and starts the next attempt."""
    task = make_task()
    other = world.new_worker(ELSEWHERE)

    def meanwhile() -> None:
        world.consumer.disconnect()
        assert other.handler.handle(world.take()) is None  # publishes attempt 2
        running = other.handler.handle(world.take())
        assert running is not None
        other.finisher.submit(running)
        other.finisher.stop()

    world.runner.parts = [Part(during=meanwhile)]
    world.submit(task)
    world.settle()
    outcome = world.assert_at_rest(TaskState.SUCCEEDED)
    assert (outcome.attempt, outcome.worker) == (2, ELSEWHERE)
    assert world.artifact_keys() == [artifact.key for artifact in outcome.artifacts]
    assert len(world.ended_events()) >= 2


def code_of(outcome: Outcome) -> str:
    assert outcome.error is not None
    return outcome.error.code
