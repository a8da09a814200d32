"""The sweeper lifts waiting tasks, by the rule of ``shared.domain.lifting``."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from services.status.errors import ViewStoreError
from services.status.store.memory import MemoryTaskViewStore
from services.status.sweeper.weights import FRESH, PlanWeights
from shared.auth.plans import load_plans
from shared.auth.store.memory import MemoryTenantStore
from shared.contracts.base import decode, encode
from shared.contracts.task import TaskMessage
from shared.domain.task import EventType, Lane
from shared.messaging.topology import REQUEUE
from tests.architecture.source import ROOT
from tests.contract.tenant_store import ACME
from tests.support.builders import (
    NOW,
    START_WITHIN,
    make_event,
)
from tests.unit.status.sweeper_world import WORK, World

if TYPE_CHECKING:
    from datetime import datetime


class ForgetfulStore(MemoryTaskViewStore):
    """Loses its database right after a task was published again."""

    forgets = True

    def raise_level(self, task_id: str, attempt: int, level: int, at: datetime) -> None:
        if self.forgets:
            message = "the database went away"
            raise ViewStoreError(message)
        super().raise_level(task_id, attempt, level, at)


@pytest.fixture
def world() -> World:
    return World()


LATE = START_WITHIN.total_seconds()


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
