"""The sweeper's duties with a broker, a bucket and a database in memory, and a clock that is set by hand."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from services.status.sweeper.bootstrap import database_problem
from services.status.sweeper.loop import LEASE_SECONDS
from shared.contracts.event import started_event
from shared.domain.errors import ConfigurationError
from shared.domain.settle import ClaimMark
from shared.domain.task import EventType, TaskState
from shared.lifecycle import ExitCode, StopSignal
from shared.storage.records import JSON, claim_key
from tests.support.builders import (
    FINISH_WITHIN,
    START_WITHIN,
    make_claim,
    make_event,
    make_outcome,
)
from tests.unit.status.sweeper_world import World

if TYPE_CHECKING:
    from shared.contracts.outcome import Claim, Outcome


@pytest.fixture
def world() -> World:
    return World()


LATE = START_WITHIN.total_seconds()


def test_a_task_that_waits_past_its_start_deadline_ends_with_its_event(world: World) -> None:
    task = world.submit()
    world.sweep(LATE)
    outcome = world.outcome(task)
    assert outcome.error is not None
    assert (outcome.state, outcome.error.code, outcome.task) == (TaskState.EXPIRED, "expired", task)
    claim = world.records.find_claim(task.task_id, 1)
    assert claim is not None
    assert claim.mark is ClaimMark.EXPIRED
    assert [event.type for event in world.events()] == [EventType.EXPIRED]
    assert world.state(task) is TaskState.EXPIRED
    world.sweep()
    assert len(world.events()) == 1


def test_a_task_in_time_is_left_alone(world: World) -> None:
    world.submit()
    world.sweep(LATE - 2)
    assert world.events() == []
    assert list(world.objects.keys("")) == []


def test_a_retry_may_start_after_the_start_deadline_but_not_after_the_finish_deadline(world: World) -> None:
    task = world.submit()
    world.tell(make_event(EventType.RETRYING, task))
    world.sweep(LATE)
    assert world.events() == []
    world.sweep(FINISH_WITHIN.total_seconds() - LATE)
    outcome = world.outcome(task)
    assert outcome.error is not None
    assert (outcome.state, outcome.attempt, outcome.error.code) == (TaskState.FAILED, 2, "deadline_exceeded")


def test_a_worker_that_claimed_first_keeps_the_task_and_its_start_is_told(world: World) -> None:
    task = world.submit()
    claim = world.records.claim(make_claim(task_id=task.task_id))
    world.sweep(LATE)
    assert world.records.outcome(task.task_id) is None
    told = started_event(task, worker=claim.worker, execution=claim.execution, at=claim.at)
    assert world.events() == [told]
    assert world.state(task) is TaskState.RUNNING
    world.sweep()
    assert len(world.events()) == 1


def test_a_worker_that_claims_between_our_look_and_our_mark_keeps_the_task(world: World) -> None:
    task = world.submit()
    look = world.records.outcome

    def look_and_be_late(task_id: str) -> Outcome | None:
        found = look(task_id)
        world.records.claim(make_claim(task_id=task_id))
        return found

    world.records.outcome = look_and_be_late  # type: ignore[method-assign] # the race, made certain
    world.sweep(LATE)
    assert look(task.task_id) is None
    assert world.state(task) is TaskState.RUNNING


def test_a_worker_that_claims_after_our_mark_finds_it(world: World) -> None:
    task = world.submit()
    world.sweep(LATE)
    claim: Claim = make_claim(task_id=task.task_id)
    outcome, standing = world.records.begin(claim)
    assert (outcome, standing) == (world.outcome(task), claim)
    assert world.records.claim(claim).mark is ClaimMark.EXPIRED


def test_a_task_that_was_cancelled_and_whose_news_is_late_stays_cancelled(world: World) -> None:
    task = world.submit()
    cancelled = make_outcome(task=task, state=TaskState.CANCELLED)
    world.records.commit(cancelled)
    world.sweep(LATE)
    assert world.outcome(task) == cancelled
    assert world.state(task) is TaskState.CANCELLED
    assert world.records.find_claim(task.task_id, 1) is None


def test_a_sweeper_that_died_after_its_mark_is_made_up_for(world: World) -> None:
    task = world.submit()
    world.records.claim(make_claim(task_id=task.task_id, mark=ClaimMark.EXPIRED, run_budget_seconds=0))
    world.sweep(LATE)
    assert world.state(task) is TaskState.EXPIRED


def test_a_sweeper_that_could_not_tell_the_end_tells_it_in_the_next_pass(world: World) -> None:
    task = world.submit()
    world.broker.available = False
    world.sweep(LATE)
    first = world.outcome(task)
    assert world.count("atelier_sweeper_failed_total", duty="expiry") == 1
    world.broker.available = True
    world.sweep()
    assert world.state(task) is TaskState.EXPIRED
    assert world.outcome(task) == first


def test_one_that_cannot_be_settled_holds_up_no_other(world: World) -> None:
    tasks = [world.submit() for _ in range(3)]
    world.objects.put(claim_key(tasks[0].task_id, 1), b"no claim", media_type=JSON)
    world.sweeper = world.another(tasks=1)
    for _ in range(5):  # three pieces of one task, an empty one, and the first again
        world.sweep(LATE)
    assert [world.state(task) for task in tasks] == [TaskState.QUEUED, TaskState.EXPIRED, TaskState.EXPIRED]
    assert world.count("atelier_sweeper_failed_total", duty="expiry") == 2


def test_a_pass_expires_no_more_than_it_may(world: World) -> None:
    for _ in range(5):
        world.submit()
    world.sweeper = world.another(tasks=2)
    world.sweep(LATE)
    assert len(world.events()) == 2


def test_a_pass_ends_with_the_order_to_stop(world: World) -> None:
    world.submit()
    world.stop.request()
    world.sweep(LATE)
    assert world.events() == []


def test_of_two_replicas_one_acts_until_it_is_gone(world: World) -> None:
    second = world.another()
    assert world.sweep()
    assert not second.sweep(world.stop)
    world.now += timedelta(seconds=LEASE_SECONDS)
    assert second.sweep(world.stop)
    assert not world.sweeper.sweep(world.stop)
    assert world.count("atelier_sweeper_acting") == 0


def test_one_that_is_told_to_stop_leaves_the_lease_to_others_at_once(world: World) -> None:
    world.sweep()
    world.stop.request()
    world.sweeper.run(world.stop)
    assert world.another().sweep(StopSignal())


def test_two_that_act_at_once_end_a_task_once(world: World) -> None:
    task = world.submit()
    world.now += START_WITHIN
    for sweeper in (world.sweeper, world.another()):
        sweeper.sweep(world.stop)
        world.now += timedelta(seconds=LEASE_SECONDS)  # the view has not heard of the end yet
    assert {event.event_id for event in world.events()} == {f"{task.task_id}:1:{2**31 - 1}:expired"}
    assert len(world.events()) == 2


class CountingStop(StopSignal):
    """Stops after so many pauses."""

    def __init__(self, pauses: int) -> None:
        super().__init__()
        self.pauses = pauses

    def wait(self, seconds: float) -> bool:
        assert seconds == 5.0
        self.pauses -= 1
        if self.pauses == 0:
            self.request()
        return self.is_set()


def test_a_database_that_is_away_costs_passes_and_not_the_process(world: World) -> None:
    task = world.submit()
    world.now += START_WITHIN
    world.store.available = False

    class Returning(CountingStop):
        def wait(self, seconds: float) -> bool:
            world.store.available = True
            return super().wait(seconds)

    stop = Returning(2)
    assert database_problem(world.store) == "the database is switched off"
    world.sweeper.run(stop)
    assert world.outcome(task).state is TaskState.EXPIRED
    assert world.count("atelier_sweeper_failed_total", duty="pass") == 1
    assert (stop.exit_code, database_problem(world.store)) == (ExitCode.OK, None)


def test_a_bucket_that_ignores_conditions_ends_the_process(world: World) -> None:
    def refuse() -> None:
        message = "the store ignores If-None-Match"
        raise ConfigurationError(message)

    task = world.submit()
    world.now += START_WITHIN
    stop = CountingStop(1)
    world.another(prove_store=refuse).run(stop)
    assert stop.exit_code is ExitCode.CONFIGURATION
    assert world.records.outcome(task.task_id) is None
