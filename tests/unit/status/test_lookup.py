from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from services.status.errors import StatusLaggingError, TaskNotFoundError, ViewStoreError
from services.status.lookup import AWAIT_SECONDS, RECENT_SECONDS, TaskFinder
from services.status.store.memory import MemoryTaskViewStore
from shared.domain.errors import StorageError
from shared.domain.task import EventType, TaskState
from shared.ids import task_id_seconds
from shared.storage.memory import MemoryStore
from shared.storage.records import JSON, TaskRecords, outcome_key
from tests.support.builders import TASK_ID, TENANT, make_event, make_outcome
from tests.support.polling import PollingWaiter

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.contracts.event import TaskEvent

MADE_AT = datetime.fromtimestamp(task_id_seconds(TASK_ID), UTC)
# The time field says 10889.
FAR_FUTURE_ID = "ffffffff-ffff-7fff-bfff-ffffffffffff"


class World:
    """A finder over fakes; time passes only while somebody waits."""

    def __init__(self) -> None:
        self.store = MemoryTaskViewStore()
        self.objects = MemoryStore()
        self.records = TaskRecords(self.objects)
        self.now = MADE_AT + timedelta(seconds=1)
        self.slept = 0.0
        self.pauses: list[float] = []
        self.meanwhile: list[tuple[float, Callable[[], None]]] = []
        waiter = PollingWaiter(self.store, clock=lambda: self.slept, sleep=self.sleep)
        self.finder = TaskFinder(store=self.store, waiter=waiter, records=self.records, clock=lambda: self.now)

    def sleep(self, seconds: float) -> None:
        self.slept += seconds
        self.pauses.append(seconds)
        for at, action in list(self.meanwhile):
            if self.slept >= at:
                self.meanwhile.remove((at, action))
                action()

    def apply(self, *events: TaskEvent) -> None:
        self.store.apply_events(events, seen_until=MADE_AT)

    def seen(self, until: datetime) -> None:
        self.store.apply_events([], seen_until=until)


@pytest.fixture
def world() -> World:
    return World()


def test_a_task_that_is_there_is_answered_at_once(world: World) -> None:
    world.apply(make_event())
    assert world.finder.find(TASK_ID, TENANT).state is TaskState.QUEUED
    assert world.slept == 0


@pytest.mark.parametrize(
    "task_id",
    [
        "",
        "x",
        "../../etc/passwd",
        TASK_ID.upper(),
        f"{TASK_ID} ",
        f"{TASK_ID}\n",
        "019b8e1b-7800-4abc-8def-0123456789ab",
        "00000000-0000-0000-0000-000000000000",
    ],
)
def test_what_is_no_task_id_is_not_found_without_asking_anybody(world: World, task_id: str) -> None:
    world.store.available = world.objects.available = False
    with pytest.raises(TaskNotFoundError):
        world.finder.find(task_id, TENANT)


def test_another_tenants_task_is_not_found(world: World) -> None:
    world.apply(make_event())
    with pytest.raises(TaskNotFoundError):
        world.finder.find(TASK_ID, "other")


def test_another_tenants_ended_task_in_the_bucket_is_not_found(world: World) -> None:
    world.records.commit(make_outcome())
    with pytest.raises(TaskNotFoundError):
        world.finder.find(TASK_ID, "other")


def test_a_task_accepted_a_moment_ago_is_awaited(world: World) -> None:
    world.meanwhile.append((0.3, lambda: world.apply(make_event())))
    assert world.finder.find(TASK_ID, TENANT).state is TaskState.QUEUED
    assert 0.3 <= world.slept < AWAIT_SECONDS


def test_a_young_id_that_stays_away_is_lagging_while_the_view_is_behind(world: World) -> None:
    world.seen(MADE_AT)
    with pytest.raises(StatusLaggingError):
        world.finder.find(TASK_ID, TENANT)
    assert world.slept == pytest.approx(AWAIT_SECONDS)


def test_a_young_id_is_not_found_once_the_view_has_seen_up_to_the_question(world: World) -> None:
    world.meanwhile.append((1.0, lambda: world.seen(world.now)))
    with pytest.raises(TaskNotFoundError):
        world.finder.find(TASK_ID, TENANT)
    assert 1.0 <= world.slept < AWAIT_SECONDS


@pytest.mark.parametrize("age", [timedelta(0), timedelta(seconds=RECENT_SECONDS + 1), timedelta(days=1)])
def test_what_the_view_has_seen_nothing_of_is_not_awaited(world: World, age: timedelta) -> None:
    world.now = MADE_AT + age
    world.seen(world.now)
    with pytest.raises(TaskNotFoundError):
        world.finder.find(TASK_ID, TENANT)
    assert world.slept == 0


def test_a_retry_whose_id_is_as_old_as_what_it_retries_is_awaited(world: World) -> None:
    world.now = MADE_AT + timedelta(hours=1)
    world.seen(world.now - timedelta(seconds=1))
    world.meanwhile.append((0.3, lambda: world.apply(make_event())))
    assert world.finder.find(TASK_ID, TENANT).state is TaskState.QUEUED
    assert 0.3 <= world.slept < AWAIT_SECONDS


def test_news_that_come_while_the_view_says_how_far_it_is_are_not_passed_over(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen_with_the_task() -> datetime:
        world.apply(make_event())
        return world.now

    monkeypatch.setattr(world.store, "seen_until", seen_with_the_task)
    assert world.finder.find(TASK_ID, TENANT).state is TaskState.QUEUED


def test_an_old_id_is_lagging_while_the_view_has_not_come_that_far(world: World) -> None:
    world.now = MADE_AT + timedelta(hours=1)
    world.seen(MADE_AT + timedelta(seconds=RECENT_SECONDS - 1))
    with pytest.raises(StatusLaggingError):
        world.finder.find(TASK_ID, TENANT)


def test_before_the_view_has_seen_anything_nothing_is_called_unknown(world: World) -> None:
    world.now = MADE_AT + timedelta(days=1)
    with pytest.raises(StatusLaggingError):
        world.finder.find(TASK_ID, TENANT)


def test_an_id_from_the_far_future_is_not_found(world: World) -> None:
    with pytest.raises(TaskNotFoundError):
        world.finder.find(FAR_FUTURE_ID, TENANT)
    assert world.slept == 0


def test_an_ended_task_that_the_view_lacks_is_answered_from_the_bucket(world: World) -> None:
    world.now = MADE_AT + timedelta(days=1)
    world.records.commit(make_outcome())
    view = world.finder.find(TASK_ID, TENANT)
    assert view.state is TaskState.SUCCEEDED
    assert view.submission is not None
    assert len(view.artifacts) == 1


def test_a_bucket_that_is_away_is_said_and_not_taken_for_not_found(world: World) -> None:
    world.now = MADE_AT + timedelta(days=1)
    world.seen(world.now)
    world.objects.available = False
    with pytest.raises(StorageError):
        world.finder.find(TASK_ID, TENANT)


def test_an_outcome_that_cannot_be_read_is_a_fault_of_the_store(world: World) -> None:
    world.now = MADE_AT + timedelta(days=1)
    world.objects.put(outcome_key(TASK_ID), b"garbage", media_type=JSON)
    with pytest.raises(StorageError):
        world.finder.find(TASK_ID, TENANT)


def test_a_bucket_that_is_away_does_not_matter_for_a_task_that_is_there(world: World) -> None:
    world.apply(make_event())
    world.objects.available = False
    assert world.finder.find(TASK_ID, TENANT).state is TaskState.QUEUED


def test_a_database_that_is_away_is_said(world: World) -> None:
    world.store.available = False
    with pytest.raises(ViewStoreError):
        world.finder.find(TASK_ID, TENANT)


def test_waiting_ends_with_the_task(world: World) -> None:
    world.apply(make_event())
    world.meanwhile.append((1.0, lambda: world.apply(make_event(EventType.STARTED))))
    world.meanwhile.append((5.0, lambda: world.apply(make_event(EventType.SUCCEEDED))))
    assert world.finder.find(TASK_ID, TENANT, wait_seconds=30).state is TaskState.SUCCEEDED
    assert 5.0 <= world.slept <= 5.25


def test_waiting_answers_the_state_as_it_is_when_the_time_is_over(world: World) -> None:
    world.apply(make_event())
    world.meanwhile.append((1.0, lambda: world.apply(make_event(EventType.STARTED))))
    assert world.finder.find(TASK_ID, TENANT, wait_seconds=3).state is TaskState.RUNNING
    assert world.slept == pytest.approx(3.0)


def test_a_task_that_has_ended_is_not_waited_for(world: World) -> None:
    world.apply(make_event(EventType.FAILED))
    world.finder.find(TASK_ID, TENANT, wait_seconds=30)
    assert world.slept == 0


def test_another_tenants_task_is_not_waited_for(world: World) -> None:
    world.apply(make_event())
    with pytest.raises(TaskNotFoundError):
        world.finder.find(TASK_ID, "other", wait_seconds=30)
    assert world.slept == 0


def test_pauses_grow_from_20_to_250_milliseconds(world: World) -> None:
    world.apply(make_event())
    world.finder.find(TASK_ID, TENANT, wait_seconds=10)
    assert world.pauses[0] == pytest.approx(0.02)
    assert max(world.pauses) == pytest.approx(0.25)
    assert world.pauses[:-1] == sorted(world.pauses[:-1])
