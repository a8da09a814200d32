"""What is deleted when, over a bucket in memory."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import pytest

from services.status.lifecycle.keep_times import KeepTimes, read_keep_times
from services.status.lifecycle.rounds import Lifecycle
from services.status.sweeper.chores import ChoreDuty
from services.status.sweeper.metrics import SweeperMetrics
from shared.auth.errors import TenantStoreError
from shared.auth.store.memory import MemoryTenantStore
from shared.auth.store.ports import Tenant
from shared.contracts.cache import reused
from shared.domain.errors import StorageError
from shared.domain.keeping import INPUTS_KEPT_FOR, LEADS_KEPT_FOR, LEASES_KEPT_FOR, REUSED_FOR
from shared.domain.plans import Sharing
from shared.domain.task import TaskState
from shared.ids import first_task_id
from shared.storage.memory import MemoryStore
from shared.storage.records import JSON, TaskRecords, outcome_key
from tests.support.builders import NOW, make_artifact, make_claim, make_outcome, make_task
from tests.support.tenants import PLANS

if TYPE_CHECKING:
    from datetime import datetime

    from shared.contracts.outcome import Outcome
    from shared.contracts.task import TaskMessage

DAY: Final = timedelta(days=1)
PLAN: Final = PLANS.resolve("standard", {})
KEY: Final = f"tenant/acme/{'a' * 64}"
SHARED_KEY: Final = f"shared/{'a' * 64}"


def times(own: int = 10, longest: int = 30, sharing: int = 20) -> KeepTimes:
    plans = [
        replace(PLAN, keep_results_days=longest),
        replace(PLAN, keep_results_days=sharing, results=Sharing.SHARED),
    ]
    return KeepTimes(plans, {"acme": replace(PLAN, keep_results_days=own)}, None)


class World:
    """A bucket whose clock is set by hand, and a lifecycle over it."""

    def __init__(self) -> None:
        self.now = NOW
        self.objects = MemoryStore(lambda: self.now)
        self.records = TaskRecords(self.objects)
        self.times = times()
        self.lifecycle = self.another()

    def another(self, *, dry_run: bool = False) -> Lifecycle:
        return Lifecycle(records=self.records, read_times=lambda: self.times, dry_run=dry_run)

    def task(self, number: int = 0, **changes: object) -> TaskMessage:
        at = self.now + timedelta(seconds=number)
        return make_task(**{"task_id": first_task_id(at.timestamp()), "submitted_at": at, **changes})

    def end(self, task: TaskMessage, state: TaskState = TaskState.SUCCEEDED) -> Outcome:
        """A task with a claim, the pictures of two executions, and an outcome that names one of them."""
        self.records.claim(make_claim(task_id=task.task_id))
        keys = [f"tasks/{task.task_id}/1-{execution}/0.png" for execution in ("lost", "won")]
        for key in keys:
            self.objects.put(key, b"x", media_type="image/png")
        return self.records.commit(make_outcome(task=task, state=state, artifacts=(make_artifact(key=keys[1]),)))

    def go(self, at: datetime, limit: int = 100) -> None:
        """A whole round, so much later."""
        self.now = at
        for _ in range(100):
            if not self.lifecycle.run(self.now, limit):
                return
        pytest.fail("the round does not end")

    def left(self, task: TaskMessage) -> int:
        """How many objects of a task are left."""
        return len(list(self.objects.keys(f"tasks/{task.task_id}/")))


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("state", [TaskState.SUCCEEDED, TaskState.FAILED])
def test_everything_but_the_outcome_goes_when_the_plans_time_is_over(world: World, state: TaskState) -> None:
    task = world.task()
    outcome = world.end(task, state)
    world.go(outcome.ended_at + 10 * DAY - timedelta(seconds=1))
    assert world.left(task) == 4
    world.go(outcome.ended_at + 10 * DAY)
    assert list(world.objects.keys("tasks/")) == [outcome_key(task.task_id)]
    assert world.records.outcome(task.task_id) == outcome
    assert (world.lifecycle.tally.tasks, world.lifecycle.tally.objects) == (1, 3)
    world.go(outcome.ended_at + 11 * DAY)
    assert world.lifecycle.tally.tasks == 0


def test_a_task_that_has_not_ended_is_left_alone(world: World) -> None:
    task = world.task()
    world.records.claim(make_claim(task_id=task.task_id))
    world.go(NOW + 300 * DAY)
    assert world.left(task) == 1


def test_each_tenant_has_its_own_time_and_an_unknown_one_the_longest(world: World) -> None:
    known, unknown, stranger = world.task(1), world.task(2, tenant_id="nobody"), world.task(3, tenant_id="anonymous-1")
    for task in (known, unknown, stranger):
        world.end(task)
    world.go(NOW + 11 * DAY)
    assert [world.left(task) for task in (known, unknown, stranger)] == [1, 4, 4]
    world.go(NOW + 31 * DAY)
    assert [world.left(task) for task in (known, unknown, stranger)] == [1, 1, 1]


@pytest.mark.parametrize(("key", "days"), [(KEY, 10), (SHARED_KEY, 20)])
def test_what_others_may_have_been_given_stays_for_as_long_as_they_may_count_on_it(
    world: World, key: str, days: int
) -> None:
    task = world.task(cache_key=key)
    made = world.end(task)
    world.now = NOW + REUSED_FOR - timedelta(seconds=1)
    follower = world.task(tenant_id="acme", cache_key=key)
    given = world.records.commit(reused(follower, made, worker="gateway", at=world.now))
    world.go(given.ended_at + days * DAY)
    assert world.objects.exists(given.artifacts[0].key)
    world.go(NOW + REUSED_FOR + days * DAY + timedelta(hours=1))
    assert not world.objects.exists(given.artifacts[0].key)
    assert world.records.outcome(follower.task_id) == given


def test_a_dry_run_counts_and_deletes_nothing(world: World) -> None:
    task = world.task()
    world.end(task)
    world.objects.put("workers/w.json", b"", media_type=JSON)
    world.lifecycle = world.another(dry_run=True)
    world.go(NOW + 30 * DAY)
    assert (world.lifecycle.tally.objects, world.lifecycle.tally.others) == (3, 1)
    assert (world.left(task), world.objects.exists("workers/w.json")) == (4, True)


def test_a_round_goes_on_where_a_piece_ended(world: World) -> None:
    tasks = [world.task(number) for number in range(7)]
    for task in tasks:
        world.end(task)
    world.now = NOW + 20 * DAY
    assert world.lifecycle.run(world.now, 3)
    assert [world.left(task) for task in tasks] == [1, 1, 1, 4, 4, 4, 4]
    world.go(world.now, limit=3)
    assert [world.left(task) for task in tasks] == [1] * 7
    assert world.lifecycle.tally.tasks == 7


def test_a_piece_passes_over_no_more_than_it_may_of_what_has_nothing_left(world: World) -> None:
    for number in range(120):
        world.records.commit(make_outcome(task=world.task(number)))
    last = world.task(121)
    world.end(last)
    world.now = NOW + 20 * DAY
    assert world.lifecycle.run(world.now, 1)
    assert world.left(last) == 4
    world.go(world.now, limit=1)
    assert world.left(last) == 1


def test_an_outcome_that_cannot_be_read_is_counted_and_its_task_kept(world: World) -> None:
    task, other = world.task(1), world.task(2)
    world.end(task)
    world.end(other)
    world.objects.put(outcome_key(task.task_id), b"no outcome", media_type=JSON)
    world.go(NOW + 30 * DAY)
    assert (world.left(task), world.left(other), world.lifecycle.tally.unreadable) == (4, 1, 1)


def test_old_leads_leases_and_probes_go_by_the_age_of_the_object(world: World) -> None:
    world.objects.put("cache/tenant/acme/k/000001.json", b"", media_type=JSON)
    world.objects.put("workers/gone.json", b"", media_type=JSON)
    world.objects.put("probes/1", b"", media_type="text/plain")
    world.objects.put("archive/tasks/1.gz", b"", media_type="text/plain")
    world.now = NOW + LEASES_KEPT_FOR - timedelta(seconds=1)
    world.objects.put("workers/here.json", b"", media_type=JSON)
    world.go(NOW + LEASES_KEPT_FOR)
    left = ["archive/tasks/1.gz", "cache/tenant/acme/k/000001.json", "workers/here.json"]
    assert list(world.objects.keys("")) == left
    world.objects.put("workers/here.json", b"", media_type=JSON)
    world.go(NOW + LEADS_KEPT_FOR)
    assert list(world.objects.keys("")) == ["archive/tasks/1.gz"]


def test_an_input_image_goes_some_days_after_its_last_upload(world: World) -> None:
    world.objects.put("inputs/acme/1.png", b"", media_type="image/png")
    world.objects.put("inputs/acme/2.png", b"", media_type="image/png")
    world.now = NOW + timedelta(days=2)
    world.objects.put("inputs/acme/2.png", b"", media_type="image/png")
    world.go(NOW + INPUTS_KEPT_FOR - timedelta(seconds=1))
    assert list(world.objects.keys("")) == ["inputs/acme/1.png", "inputs/acme/2.png"]
    world.go(NOW + INPUTS_KEPT_FOR)
    assert list(world.objects.keys("")) == ["inputs/acme/2.png"]
    assert world.lifecycle.tally.others == 1


def test_a_bucket_that_fails_in_between_costs_the_piece_and_not_the_round(world: World) -> None:
    tasks = [world.task(number) for number in range(4)]
    for task in tasks:
        world.end(task)
    world.now = NOW + 20 * DAY
    world.lifecycle.run(world.now, 2)
    world.objects.available = False
    with pytest.raises(StorageError):
        world.lifecycle.run(world.now, 2)
    world.objects.available = True
    world.go(world.now, limit=2)
    assert [world.left(task) for task in tasks] == [1] * 4


def test_times_come_from_plans_and_what_tenants_have_in_place_of_them() -> None:
    store = MemoryTenantStore()
    plans = {"a": ("standard", {}), "b": ("standard", {"keep_results_days": 90}), "c": ("no-such-plan", {})}
    for tenant_id, (plan, overrides) in plans.items():
        store.add_tenant(Tenant(id=tenant_id, name="", plan=plan, created_at=NOW, overrides=overrides))
    read = read_keep_times(store, PLANS)
    assert [read.of(tenant_id).days for tenant_id in ("a", "b", "c")] == [30, 90, 90]
    assert read.shortest == 7 * DAY, "the free plan's"


class Duty:
    """A chore of so many pieces, and the clock of its sweeper."""

    def __init__(self, pieces: int) -> None:
        self.now = NOW
        self.pieces = pieces
        self.done: list[int] = []
        self.error: Exception | None = None
        self.metrics = SweeperMetrics()
        self.duty = ChoreDuty("artifacts", self.piece, metrics=self.metrics, clock=lambda: self.now)

    def piece(self, now: datetime, limit: int) -> bool:
        assert now == self.now
        if self.error is not None:
            raise self.error
        self.done.append(limit)
        return len(self.done) % self.pieces != 0

    def run(self, seconds: float = 5) -> int:
        self.now += timedelta(seconds=seconds)
        self.duty.run(200, lambda: True)
        return len(self.done)


def test_a_chore_is_done_in_pieces_and_then_rests_for_an_hour() -> None:
    duty = Duty(3)
    assert [duty.run() for _ in range(5)] == [1, 2, 3, 3, 3]
    assert max(duty.done) < 200
    assert duty.run(3600) == 4


def test_a_chore_that_fails_is_counted_and_tried_again_after_a_pause() -> None:
    duty = Duty(1)
    duty.error = TenantStoreError("the store is away")
    assert [duty.run(), duty.run()] == [0, 0]
    value = duty.metrics.registry.get_sample_value("atelier_sweeper_failed_total", {"duty": "artifacts"})
    assert value == 1
    duty.error = None
    assert [duty.run(), duty.run(60)] == [0, 1]


def test_a_replica_that_takes_over_begins_at_once() -> None:
    duty = Duty(1)
    duty.run()
    duty.duty.begin()
    assert duty.run() == 2
