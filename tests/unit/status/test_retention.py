from __future__ import annotations

import gzip
from datetime import timedelta
from typing import Any

import orjson
import pytest

from services.status.lookup import TaskFinder
from services.status.retention.retention import BATCH, Removed, Retention, Terms
from services.status.store.memory import MemoryTaskViewStore
from shared.contracts.event import ended_event
from shared.domain.errors import StorageError
from shared.domain.task import EventType, TaskState
from shared.ids import first_task_id
from shared.storage.memory import MemoryStore
from shared.storage.records import TaskRecords
from tests.support.builders import NOW, make_event, make_outcome, make_task
from tests.support.polling import PollingWaiter

TERMS = Terms(news=timedelta(days=1), deliveries=timedelta(days=7), tasks=timedelta(days=30))
LATER = NOW + timedelta(days=40)


class World:
    def __init__(self) -> None:
        self.store = MemoryTaskViewStore()
        self.objects = MemoryStore()
        self.records = TaskRecords(self.objects)
        self.retention = Retention(store=self.store, objects=self.objects, terms=TERMS)

    def task(self, number: int, *, hours: float = 0, ended: bool = True) -> str:
        at = NOW + timedelta(hours=hours, seconds=number)
        task = make_task(task_id=first_task_id(at.timestamp()), submitted_at=at)
        outcome = make_outcome(task=task)
        self.store.apply_events([make_event(EventType.STARTED, task)], seen_until=NOW)
        if ended:
            self.records.commit(outcome)
            self.store.apply_events([ended_event(outcome)], seen_until=NOW)
        return task.task_id

    def files(self) -> list[str]:
        return list(self.objects.keys("archive/"))

    def lines(self, key: str) -> list[dict[str, Any]]:
        return [orjson.loads(line) for line in gzip.decompress(self.objects.get(key)).splitlines()]


@pytest.fixture
def world() -> World:
    return World()


def test_what_is_past_its_term_goes_and_what_is_not_stays(world: World) -> None:
    old, running, young = world.task(0), world.task(1, ended=False), world.task(2, hours=24 * 39.5)
    assert world.retention.run(LATER, 100) == Removed(news=3, deliveries=0, tasks=1)
    assert world.store.get(old) is None
    assert [world.store.get(task_id) is not None for task_id in (running, young)] == [True, True]
    assert world.store.oldest() == 4
    assert world.retention.run(LATER, 100) == Removed(news=0, deliveries=0, tasks=0)


def test_the_archive_holds_each_task_with_its_attempts_under_the_day_of_its_submit(world: World) -> None:
    first, second, next_day = world.task(0), world.task(1), world.task(0, hours=24)
    views = {task_id: world.store.get(task_id) for task_id in (first, second, next_day)}
    world.retention.run(LATER, 100)
    today, tomorrow = world.files()
    assert today == f"archive/tasks/2026/01/05/{first}-{second}.jsonl.gz"
    assert tomorrow == f"archive/tasks/2026/01/06/{next_day}-{next_day}.jsonl.gz"
    lines = world.lines(today)
    assert [line["task_id"] for line in lines] == [first, second]
    view = views[first]
    assert view is not None
    assert lines[0]["view"] == orjson.loads(view.model_dump_json(exclude_none=True))
    [attempt] = lines[0]["attempts"]
    assert (attempt["attempt"], attempt["state"], attempt["worker"]) == (1, "succeeded", "worker-1")


def test_an_archived_task_is_still_answered_from_its_outcome(world: World) -> None:
    task_id = world.task(0)
    before = world.store.get(task_id)
    world.retention.run(LATER, 100)
    waiter = PollingWaiter(world.store, clock=lambda: 0.0, sleep=lambda _: None)
    finder = TaskFinder(store=world.store, waiter=waiter, records=world.records, clock=lambda: LATER)
    view = finder.find(task_id, "acme")
    assert before is not None
    assert (view.state, view.artifacts, view.submission) == (TaskState.SUCCEEDED, before.artifacts, before.submission)


def test_a_bucket_that_is_away_costs_no_task(world: World) -> None:
    task_id = world.task(0)
    world.objects.available = False
    with pytest.raises(StorageError):
        world.retention.run(LATER, 100)
    assert world.store.get(task_id) is not None
    world.objects.available = True
    assert world.retention.run(LATER, 100).tasks == 1


def test_a_run_removes_no_more_than_it_may_and_the_next_goes_on(world: World) -> None:
    for number in range(7):
        world.task(number)
    assert world.retention.run(LATER, 5) == Removed(news=5, deliveries=0, tasks=5)
    assert world.retention.run(LATER, 5) == Removed(news=5, deliveries=0, tasks=2)


def test_many_rows_go_in_transactions_of_bounded_size(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def drop_news(_before: object, size: int) -> int:
        sizes.append(size)
        return size

    monkeypatch.setattr(world.store, "drop_news", drop_news)
    assert world.retention.run(LATER, 2 * BATCH + 1).news == 2 * BATCH + 1
    assert sizes == [BATCH, BATCH, 1]


def test_the_same_tasks_make_the_same_file(world: World) -> None:
    world.task(0)
    other = World()
    other.task(0)
    for each in (world, other):
        each.retention.run(LATER, 10)
    [key] = world.files()
    assert world.objects.get(key) == other.objects.get(key)
