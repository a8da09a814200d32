"""The fake TaskViewStore, and SQLite."""

from __future__ import annotations

import sqlite3
import threading
from typing import TYPE_CHECKING

import pytest

from services.status.errors import ViewStoreError
from services.status.store.memory import MemoryTaskViewStore
from services.status.store.sql import SqlTaskViewStore, open_store
from shared.domain.errors import ConfigurationError
from shared.domain.task import EventType, TaskState
from shared.ids import new_task_id
from tests.contract.task_view_store import TaskViewStoreContract
from tests.support.builders import NOW, TASK_ID, make_event, make_task
from tests.support.views import replayed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def sqlite_store(tmp_path: Path) -> Iterator[SqlTaskViewStore]:
    store = open_store(f"sqlite:///{tmp_path}/status.db")
    yield store
    store.close()


class TestMemoryTaskViewStore(TaskViewStoreContract):
    @pytest.fixture
    def store(self) -> MemoryTaskViewStore:
        return MemoryTaskViewStore()

    def test_it_fails_while_it_is_switched_off(self, store: MemoryTaskViewStore) -> None:
        store.available = False
        with pytest.raises(ViewStoreError):
            store.get(TASK_ID)


class TestSqliteTaskViewStore(TaskViewStoreContract):
    @pytest.fixture
    def store(self, sqlite_store: SqlTaskViewStore) -> SqlTaskViewStore:
        return sqlite_store


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
