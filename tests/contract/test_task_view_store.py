from __future__ import annotations

import sqlite3
import threading
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from services.status.errors import ViewStoreError
from services.status.store.memory import MemoryTaskViewStore
from services.status.store.sql import SqlTaskViewStore, open_store
from shared.domain.errors import ConfigurationError
from shared.domain.task import EventType, TaskState
from shared.ids import new_task_id
from tests.support.builders import NOW, TASK_ID, make_event, make_task
from tests.support.views import replayed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from services.status.store.ports import TaskViewStore


@pytest.fixture
def sqlite_store(tmp_path: Path) -> Iterator[SqlTaskViewStore]:
    store = open_store(f"sqlite:///{tmp_path}/status.db")
    yield store
    store.close()


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest) -> TaskViewStore:
    if request.param == "memory":
        return MemoryTaskViewStore()
    found: SqlTaskViewStore = request.getfixturevalue("sqlite_store")
    return found


def test_an_unknown_task_is_none(store: TaskViewStore) -> None:
    assert store.get(TASK_ID) is None


@pytest.mark.parametrize("event_type", list(EventType))
def test_a_view_comes_back_as_it_was_made(store: TaskViewStore, event_type: EventType) -> None:
    event = make_event(event_type)
    store.apply_events([event], seen_until=NOW)
    assert store.get(TASK_ID) == replayed([event])


def test_events_of_several_tasks_in_one_batch_each_reach_their_own(store: TaskViewStore) -> None:
    tasks = [make_task(task_id=new_task_id()) for _ in range(3)]
    events = [make_event(kind, task) for kind in (EventType.QUEUED, EventType.STARTED) for task in tasks]
    store.apply_events([*events, make_event(EventType.SUCCEEDED, tasks[1])], seen_until=NOW)
    views = [store.get(task.task_id) for task in tasks]
    states = [view.state for view in views if view is not None]
    assert states == [TaskState.RUNNING, TaskState.SUCCEEDED, TaskState.RUNNING]


def test_batches_build_on_each_other_and_repeat_without_harm(store: TaskViewStore) -> None:
    events = [make_event(kind) for kind in (EventType.QUEUED, EventType.STARTED, EventType.SUCCEEDED)]
    for event in events:
        store.apply_events([event], seen_until=NOW)
    once = store.get(TASK_ID)
    store.apply_events(events, seen_until=NOW)
    assert store.get(TASK_ID) == once == replayed(events)


@pytest.mark.parametrize("batched", [True, False])
def test_a_replay_is_named_by_the_task_that_it_repeats(store: TaskViewStore, batched: bool) -> None:
    old = make_task(task_id=new_task_id())
    events = [make_event(EventType.FAILED, old), make_event(EventType.QUEUED, make_task(retry_of=old.task_id))]
    for batch in [events] if batched else [[event] for event in events]:
        store.apply_events(batch, seen_until=NOW)
    view = store.get(old.task_id)
    assert view is not None
    assert (view.retried_as, view.state) == (TASK_ID, TaskState.FAILED)


def test_a_replay_of_an_unknown_task_is_stored_alone(store: TaskViewStore) -> None:
    old = new_task_id()
    store.apply_events([make_event(EventType.QUEUED, make_task(retry_of=old))], seen_until=NOW)
    assert store.get(TASK_ID) is not None
    assert store.get(old) is None


def test_how_far_the_view_has_seen_starts_unknown_and_never_goes_back(store: TaskViewStore) -> None:
    assert store.seen_until() is None
    later = NOW + timedelta(microseconds=1)
    store.apply_events([], seen_until=later)
    store.apply_events([make_event()], seen_until=NOW)
    assert store.seen_until() == later


def test_preparing_again_keeps_what_is_there(store: TaskViewStore) -> None:
    store.apply_events([make_event()], seen_until=NOW)
    store.prepare()
    assert store.get(TASK_ID) is not None


def test_a_store_that_works_passes_its_check(store: TaskViewStore) -> None:
    store.check()


def test_processes_that_open_an_empty_database_at_once_all_succeed(tmp_path: Path) -> None:
    barrier = threading.Barrier(6)
    failures: list[BaseException] = []

    def open_and_write() -> None:
        barrier.wait()
        try:
            store = open_store(f"sqlite:///{tmp_path}/status.db")
            store.apply_events([make_event(task=make_task(task_id=new_task_id()))], seen_until=NOW)
            store.close()
        except ViewStoreError as exc:
            failures.append(exc)

    threads = [threading.Thread(target=open_and_write) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with sqlite3.connect(tmp_path / "status.db") as connection:
        assert connection.execute("SELECT count(*) FROM tasks").fetchone() == (6,)
    connection.close()


def test_two_writers_of_one_task_lose_nothing_of_each_other(tmp_path: Path) -> None:
    stores = [open_store(f"sqlite:///{tmp_path}/status.db") for _ in range(2)]
    halves = [
        [make_event(EventType.QUEUED), make_event(EventType.SUCCEEDED)],
        [make_event(EventType.STARTED), make_event(EventType.PROGRESS)],
    ]
    threads = [
        threading.Thread(target=lambda s=store, h=half: [s.apply_events([e], seen_until=NOW) for e in h * 10])
        for store, half in zip(stores, halves, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stores[0].get(TASK_ID) == replayed([event for half in halves for event in half])
    for store in stores:
        store.close()


def test_readers_are_not_held_up_by_a_writer(sqlite_store: SqlTaskViewStore, tmp_path: Path) -> None:
    sqlite_store.apply_events([make_event()], seen_until=NOW)
    writer = sqlite3.connect(tmp_path / "status.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    assert sqlite_store.get(TASK_ID) is not None
    writer.close()


def test_a_failed_batch_leaves_nothing_behind(sqlite_store: SqlTaskViewStore, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "status.db") as connection:
        connection.execute("DROP TABLE feeds")
    connection.close()
    with pytest.raises(ViewStoreError):
        sqlite_store.apply_events([make_event()], seen_until=NOW)
    assert sqlite_store.get(TASK_ID) is None


def test_a_view_that_cannot_be_read_is_made_again_from_the_next_event(
    sqlite_store: SqlTaskViewStore, tmp_path: Path
) -> None:
    sqlite_store.apply_events([make_event()], seen_until=NOW)
    with sqlite3.connect(tmp_path / "status.db") as connection:
        connection.execute("UPDATE tasks SET view = '{}'")
    connection.close()
    assert sqlite_store.get(TASK_ID) is None
    sqlite_store.apply_events([make_event(EventType.STARTED)], seen_until=NOW)
    view = sqlite_store.get(TASK_ID)
    assert view is not None
    assert view.state is TaskState.RUNNING


def test_a_database_that_is_not_one_is_reported(tmp_path: Path) -> None:
    (tmp_path / "status.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(ViewStoreError):
        open_store(f"sqlite:///{tmp_path}/status.db")


@pytest.mark.parametrize(
    "url",
    ["", "nonsense", "mysql://h/d", "sqlite://", "sqlite:///relative.db", "sqlite:////no/such/folder/status.db"],
)
def test_a_useless_address_is_a_configuration_error_that_names_the_variable(url: str) -> None:
    with pytest.raises(ConfigurationError, match="ATELIER_DATABASE_URL"):
        open_store(url)


def test_the_fake_fails_while_it_is_switched_off() -> None:
    store = MemoryTaskViewStore()
    store.available = False
    with pytest.raises(ViewStoreError):
        store.get(TASK_ID)


def test_pages_go_through_every_task_by_id_once(store: TaskViewStore) -> None:
    ids = sorted(new_task_id() for _ in range(7))
    store.apply_events([make_event(task=make_task(task_id=task_id)) for task_id in reversed(ids)], seen_until=NOW)
    found: list[list[str]] = []
    cursor: str | None = ""
    while cursor is not None:
        views, cursor = store.page(cursor, 3)
        found.append(sorted(view.task_id for view in views))
    assert found == [ids[:3], ids[3:6], ids[6:]]
    assert store.page(ids[-1], 3) == ([], None)
