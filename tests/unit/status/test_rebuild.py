"""A view that is made again from the bucket, against the one that events made."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from services.status.errors import ViewStoreError
from services.status.rebuild import rebuilder as rebuilder_module
from services.status.rebuild.__main__ import main
from services.status.rebuild.ends import EndReader
from services.status.rebuild.rebuilder import Rebuilder
from services.status.store.memory import MemoryTaskViewStore
from services.status.store.ports import TaskFilter
from shared.contracts.event import ended_event, started_event
from shared.domain.errors import StorageError
from shared.domain.settle import ClaimMark
from shared.domain.task import EventType, TaskState
from shared.ids import first_task_id
from shared.lifecycle import StopSignal
from shared.storage.memory import MemoryStore
from shared.storage.records import JSON, TaskRecords, outcome_key
from tests.support.builders import NOW, make_claim, make_event, make_outcome, make_task

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shared.contracts.event import TaskEvent
    from shared.contracts.outcome import Outcome
    from shared.contracts.task import TaskMessage

CALLBACK = "https://client.example/hook"


def task_number(number: int, **changes: object) -> TaskMessage:
    at = NOW + timedelta(seconds=number)
    return make_task(**{"task_id": first_task_id(at.timestamp()), "submitted_at": at, **changes})


class World:
    """A bucket, the store that followed the events, and an empty one."""

    def __init__(self) -> None:
        self.objects = MemoryStore()
        self.records = TaskRecords(self.objects)
        self.followed, self.empty = MemoryTaskViewStore(), MemoryTaskViewStore()
        self.pool = ThreadPoolExecutor(2)
        self.stop = StopSignal()

    def end(self, task: TaskMessage, *events: TaskEvent, **changes: object) -> Outcome:
        outcome = self.records.commit(make_outcome(task=task, **changes))
        self.followed.apply_events([make_event(EventType.QUEUED, task), *events], seen_until=NOW)
        self.followed.apply_events([ended_event(outcome)], seen_until=NOW)
        return outcome

    def rebuilder(self, days: float | None = None) -> Rebuilder:
        since = None if days is None else NOW - timedelta(days=days)
        reader = EndReader(self.records, self.pool)
        return Rebuilder(objects=self.objects, reader=reader, store=self.empty, tell_since=since)

    def assert_same(self) -> None:
        assert self.empty.listed(TaskFilter(), None, 100) == self.followed.listed(TaskFilter(), None, 100)
        assert self.empty.owed == self.followed.owed


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.pool.shutdown()


def test_every_end_is_there_again_with_its_callback(world: World) -> None:
    for number, state in enumerate([TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED]):
        world.end(task_number(number, callback=CALLBACK), state=state)
    tally = world.rebuilder().run(world.stop)
    assert (tally.tasks, tally.unreadable, tally.complete) == (3, 0, True)
    world.assert_same()
    assert len(world.empty.owed) == 3


def test_the_start_of_a_task_that_ended_elsewhere_comes_from_its_claim(world: World) -> None:
    task = task_number(1, attempt=2)
    claims = [make_claim(task_id=task.task_id, attempt=number, worker=f"w-{number}") for number in (1, 2)]
    for claim in claims:
        world.records.claim(claim)
    started = [
        started_event(
            task.model_copy(update={"attempt": claim.attempt}),
            worker=claim.worker,
            execution=claim.execution,
            at=claim.at,
        )
        for claim in claims
    ]
    world.end(task, *started, state=TaskState.FAILED, started_at=None)
    world.rebuilder().run(world.stop)
    world.assert_same()
    view = world.empty.get(task.task_id)
    assert view is not None
    assert view.start is not None
    assert view.start.worker == "w-2"


def test_a_mark_of_expiry_is_no_start(world: World) -> None:
    task = task_number(1)
    world.records.claim(make_claim(task_id=task.task_id, mark=ClaimMark.EXPIRED))
    world.end(task, state=TaskState.EXPIRED, started_at=None)
    world.rebuilder().run(world.stop)
    world.assert_same()


def test_a_replay_shows_at_the_task_that_it_is_the_replay_of(world: World) -> None:
    old, new = task_number(1), task_number(2, retry_of=task_number(1).task_id)
    world.end(old, state=TaskState.FAILED)
    world.end(new)
    world.rebuilder().run(world.stop)
    world.assert_same()
    view = world.empty.get(old.task_id)
    assert view is not None
    assert view.retried_as == new.task_id


def test_what_is_older_than_a_day_is_there_and_no_news(world: World) -> None:
    old = task_number(1, callback=CALLBACK)
    new = task_number(90_000, callback=CALLBACK)
    for task in (old, new):
        world.end(task)
    world.rebuilder(days=-1).run(world.stop)
    assert [view.task_id for view in world.empty.listed(TaskFilter(), None, 9)] == [new.task_id, old.task_id]
    assert {notice.task_id for notice in world.empty.owed.values()} == {new.task_id}
    assert {logged.news.task_id for logged in world.empty.after(0, 9)} == {new.task_id}


def test_nobody_is_charged_for_ends_that_are_told_again_and_nothing_counts_as_seen(world: World) -> None:
    world.end(task_number(1))
    world.rebuilder().run(world.stop)
    assert world.empty.changes(0, 9) == []
    assert world.empty.seen_until() is None


def test_doing_it_twice_and_beside_events_changes_nothing(world: World) -> None:
    for number in range(3):
        world.end(task_number(number, callback=CALLBACK))
    world.rebuilder().run(world.stop)
    before = world.empty.latest()
    world.rebuilder().run(world.stop)
    world.empty.apply_events([make_event(EventType.QUEUED, task_number(0))], seen_until=NOW)
    world.assert_same()
    assert world.empty.latest() == before


def test_it_goes_on_behind_a_task(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuilder_module, "BATCH_TASKS", 2)
    tasks = [task_number(number) for number in range(5)]
    for task in tasks:
        world.end(task)
        world.objects.put(f"tasks/{task.task_id}/1-x/0.png", b"", media_type="image/png")

    class StopAfterTwo(StopSignal):
        def is_set(self) -> bool:
            return rebuilder.tally.tasks >= 2

    rebuilder = world.rebuilder()
    first = rebuilder.run(StopAfterTwo())
    assert (first.tasks, first.after, first.complete) == (2, tasks[1].task_id, False)
    second = world.rebuilder().run(world.stop, first.after)
    assert (second.tasks, second.complete) == (3, True)
    world.assert_same()


def test_what_cannot_be_read_is_counted_and_passed_over(world: World) -> None:
    world.objects.put(outcome_key(task_number(0).task_id), b'{"schema":1}', media_type=JSON)
    world.objects.put(outcome_key(task_number(1).task_id), b'{"schema":99}', media_type=JSON)
    world.objects.put(outcome_key("no-id"), b"{}", media_type=JSON)
    world.end(task_number(2))
    tally = world.rebuilder().run(world.stop)
    assert (tally.tasks, tally.unreadable, tally.complete) == (1, 2, True)


def test_a_bucket_that_fails_leaves_the_place_to_go_on_at(world: World) -> None:
    world.end(task_number(0))
    world.objects.available = False
    rebuilder = world.rebuilder()
    with pytest.raises(StorageError):
        rebuilder.run(world.stop, "0" * 8)
    assert rebuilder.tally.after == "0" * 8


def test_a_database_that_stays_away_ends_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuilder_module, "STORE_BACKOFF_SECONDS", (0.0,))
    world.end(task_number(0))
    world.empty.available = False
    with pytest.raises(ViewStoreError):
        world.rebuilder().run(world.stop)


def test_the_command_refuses_what_is_no_id(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--after", "yesterday"])
    assert "is not the id of a task" in capsys.readouterr().err
