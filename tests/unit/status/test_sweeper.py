"""The sweeper's duties with a broker, a bucket and a database in memory, and a clock that is set by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from services.status.errors import ViewStoreError
from services.status.store.memory import MemoryTaskViewStore
from services.status.sweeper.bootstrap import database_problem
from services.status.sweeper.expiry import ExpiryDuty
from services.status.sweeper.lifting import LiftingDuty
from services.status.sweeper.loop import LEASE_SECONDS, Pace, Sweeper
from services.status.sweeper.metrics import SweeperMetrics
from services.status.sweeper.weights import FRESH, PlanWeights
from shared.auth.plans import load_plans
from shared.auth.store.memory import MemoryTenantStore
from shared.contracts.base import decode, encode
from shared.contracts.event import TaskEvent, started_event
from shared.contracts.task import TaskMessage
from shared.domain.errors import ConfigurationError
from shared.domain.settle import ClaimMark
from shared.domain.task import EventType, Lane, TaskState
from shared.ids import new_task_id
from shared.lifecycle import ExitCode, StopSignal
from shared.messaging import messages
from shared.messaging.memory import MemoryBroker
from shared.messaging.topology import REQUEUE, STATUS_EVENTS, topology, work_queue
from shared.storage.memory import MemoryStore
from shared.storage.records import JSON, TaskRecords, claim_key
from tests.architecture.source import ROOT
from tests.contract.tenant_store import ACME
from tests.support.builders import (
    FINISH_WITHIN,
    MODEL,
    NOW,
    START_WITHIN,
    make_claim,
    make_event,
    make_outcome,
    make_task,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.contracts.outcome import Claim, Outcome

WORK = work_queue(MODEL)


class ForgetfulStore(MemoryTaskViewStore):
    """Loses its database right after a task was published again."""

    forgets = True

    def raise_level(self, task_id: str, attempt: int, level: int) -> None:
        if self.forgets:
            message = "the database went away"
            raise ViewStoreError(message)
        super().raise_level(task_id, attempt, level)


class World:
    """One sweeper, and whatever a test wants to happen around it."""

    def __init__(self, store: MemoryTaskViewStore | None = None) -> None:
        self.store = store or MemoryTaskViewStore()
        self.broker = MemoryBroker(topology([MODEL]))
        self.objects = MemoryStore()
        self.records = TaskRecords(self.objects)
        self.metrics = SweeperMetrics()
        self.now = NOW + timedelta(seconds=1)
        self.stop = StopSignal()
        self.weights: dict[str, float] = {}
        self.sweeper = self.another()

    def another(self, tasks: int = 100, prove_store: Callable[[], None] = lambda: None) -> Sweeper:
        """A further replica."""
        parts = {"work": self.store, "publisher": self.broker, "metrics": self.metrics, "clock": lambda: self.now}
        return Sweeper(
            work=self.store,
            duties=(
                ExpiryDuty(records=self.records, **parts),  # type: ignore[arg-type] # one set of parts for both
                LiftingDuty(interval_seconds=5.0, weight_of=self.weights.get, **parts),  # type: ignore[arg-type] # as above
            ),
            prove_store=prove_store,
            metrics=self.metrics,
            clock=lambda: self.now,
            pace=Pace(seconds=5.0, tasks=tasks),
        )

    def submit(self, tenant: str = "acme", **changes: object) -> TaskMessage:
        task = make_task(**{"task_id": new_task_id(), "tenant_id": tenant, **changes})
        self.broker.publish(messages.new_task(task, self.now), timeout=1)
        self.tell(make_event(EventType.QUEUED, task))
        return task

    def tell(self, *events: TaskEvent) -> None:
        self.store.apply_events(events, seen_until=self.now)

    def sweep(self, seconds: float = 5.0) -> bool:
        """A pass so long after the last one, and the consumer after it."""
        self.now += timedelta(seconds=seconds)
        led = self.sweeper.sweep(self.stop)
        self.tell(*self.events())
        return led

    def events(self) -> list[TaskEvent]:
        return [decode(TaskEvent, message.body) for message in self.broker.messages(STATUS_EVENTS)]

    def outcome(self, task: TaskMessage) -> Outcome:
        outcome = self.records.outcome(task.task_id)
        assert outcome is not None
        return outcome

    def state(self, task: TaskMessage) -> TaskState:
        view = self.store.get(task.task_id)
        assert view is not None
        return view.state

    def lifted(self) -> list[tuple[str, int]]:
        """What was published again: task and level."""
        copies = [message for message in self.broker.messages(WORK) if message.exchange == REQUEUE]
        assert all(decode(TaskMessage, copy.body).priority == copy.priority for copy in copies)
        return [(copy.message_id, copy.priority or 0) for copy in copies]

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


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


def test_of_two_tenants_at_the_lowest_level_each_ones_next_is_lifted(world: World) -> None:
    first, second = (world.submit(tenant, priority=0) for tenant in ("a", "b"))
    world.sweep()
    assert sorted(world.lifted()) == sorted([(first.task_id, 8), (second.task_id, 8)])
    view = world.store.get(first.task_id)
    assert view is not None
    assert view.priority == 8
    world.sweep()
    assert len(world.lifted()) == 2, "nothing is lifted twice"


def test_a_lifted_task_is_the_same_with_what_is_left_of_its_time(world: World) -> None:
    task = world.submit("a", priority=0)
    world.submit("b")
    world.sweep()
    [copy] = [m for m in world.broker.messages(WORK) if m.exchange == REQUEUE and m.message_id == task.task_id]
    assert copy.body == encode(task.model_copy(update={"priority": 8}))
    assert copy.expiration_ms == (task.finish_deadline - world.now) / timedelta(milliseconds=1)


def test_alone_nobody_is_lifted(world: World) -> None:
    for _ in range(3):
        world.submit("a", priority=0)
    world.sweep()
    assert world.lifted() == []


def test_a_batch_task_is_lifted_after_half_of_its_time(world: World) -> None:
    world.submit("a", priority=0, lane=Lane.BATCH)
    for tenant in ("b", "c"):
        world.submit(tenant, priority=8)
    world.sweep(LATE / 2 - 2)
    assert world.lifted() == []
    world.sweep(2)
    assert [level for _, level in world.lifted()] == [8]


def test_a_task_in_its_retry_delay_is_not_published_before_its_time(world: World) -> None:
    task = world.submit("a", priority=0)
    world.tell(make_event(EventType.RETRYING, task))  # in five seconds, one second after the submit
    world.submit("b", priority=8)
    world.sweep(4.9)
    assert world.lifted() == []
    world.sweep(0.2)
    [copy] = [message for message in world.broker.messages(WORK) if message.exchange == REQUEUE]
    assert decode(TaskMessage, copy.body).attempt == 2


def test_who_was_served_since_the_last_pass_stands_back(world: World) -> None:
    world.sweep()
    for _ in range(3):
        served = world.submit("a", priority=8)
        world.tell(make_event(EventType.STARTED, served), make_event(EventType.SUCCEEDED, served))
    behind, ahead = world.submit("b", priority=0), world.submit("a", priority=0)
    world.sweep()
    levels = dict(world.lifted())
    assert levels[behind.task_id] == 8
    assert levels.get(ahead.task_id, 0) < 8
    assert [change.work.task_id for change in world.store.changes(0, 10)] == [behind.task_id, ahead.task_id]


def test_a_plan_with_half_of_the_weight_stands_back_twice_as_far(world: World) -> None:
    world.weights["a"] = 0.5
    world.sweep()
    for tenant in ("a", "b"):
        served = world.submit(tenant, priority=8)
        world.tell(make_event(EventType.STARTED, served), make_event(EventType.SUCCEEDED, served))
    light, heavy = world.submit("a", priority=0), world.submit("b", priority=0)
    world.sweep()
    levels = dict(world.lifted())
    assert levels[heavy.task_id] == 8
    assert levels.get(light.task_id, 0) < 8


def test_weights_are_those_of_the_plans_and_the_last_known_ones_while_nobody_can_tell() -> None:
    now, tenants = NOW, MemoryTenantStore()
    tenants.add_tenant(ACME)
    tenants.add_tenant(replace(ACME, id="dear", plan="vip", overrides={"weight": 7.0}))
    tenants.add_tenant(replace(ACME, id="lost", plan="no-such-plan"))
    plans = load_plans(ROOT / "plans.toml")
    weights = PlanWeights(tenants, plans, lambda: now)
    expected = [plans.resolve("free", {}).weight, 7.0, None, None]
    assert [weights.of(tenant_id) for tenant_id in ("acme", "dear", "lost", "new")] == expected
    tenants.available = False
    assert weights.problem() is None
    now += FRESH
    assert weights.of("dear") == 7.0
    assert weights.problem() == "switched off"
    tenants.available = True
    tenants.set_plan("dear", "free", {})
    now += FRESH
    assert (weights.of("dear"), weights.problem()) == (expected[0], None)


def test_a_replica_that_takes_over_knows_nothing_of_what_was_before(world: World) -> None:
    served = world.submit("a", priority=8)
    world.tell(make_event(EventType.SUCCEEDED, served))
    tasks = [world.submit(tenant, priority=0) for tenant in ("a", "b")]
    world.sweep()
    assert dict(world.lifted()) == {task.task_id: 8 for task in tasks}


def test_a_lift_that_was_not_noted_is_done_again(world: World) -> None:
    store = ForgetfulStore()
    world = World(store)
    task = world.submit("a", priority=0)
    world.submit("b", priority=8)
    with pytest.raises(ViewStoreError):
        world.sweep()
    store.forgets = False
    world.sweep()
    assert world.lifted() == [(task.task_id, 8), (task.task_id, 8)]


def test_a_broker_that_is_away_costs_a_lift_its_pass_alone(world: World) -> None:
    for tenant in ("a", "b"):
        world.submit(tenant, priority=0)
    world.broker.available = False
    world.sweep()
    assert world.count("atelier_sweeper_failed_total", duty="lifting") == 2
    world.broker.available = True
    world.sweep()
    assert len(world.lifted()) == 2


def test_a_pass_lifts_no_more_than_it_may(world: World) -> None:
    for tenant in ("a", "b", "c"):
        world.submit(tenant, priority=0)
    world.sweeper = world.another(tasks=2)
    world.sweep()
    assert len(world.lifted()) == 2


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
