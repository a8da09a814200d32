"""The fake TaskViewStore, and SQLite."""

from __future__ import annotations

import sqlite3
import threading
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from services.status.errors import ViewStoreError
from services.status.store.database import open_database
from services.status.store.listed_sql import listed_ids
from services.status.store.memory import MemoryTaskViewStore
from services.status.store.ports import TaskFilter
from services.status.store.sql import SqlTaskViewStore, open_store
from shared.domain.errors import ConfigurationError
from shared.domain.task import EventType, TaskState
from shared.ids import new_task_id
from tests.contract.concurrent_writers import ConcurrentWritersContract
from tests.contract.task_view_store import TaskViewStoreContract
from tests.support.builders import NOW, TASK_ID, make_event, make_task

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


class TestSqliteWriters(ConcurrentWritersContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/status.db"


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


def test_what_the_slowest_of_two_consumers_has_seen_counts_until_it_is_gone(tmp_path: Path) -> None:
    fast, slow = (open_database(f"sqlite:///{tmp_path}/status.db", feed=name) for name in ("fast", "slow"))
    slow.views.apply_events([], seen_until=NOW)
    for seconds, seen in ((20, NOW), (40, NOW + timedelta(seconds=40))):
        fast.views.apply_events([], seen_until=NOW + timedelta(seconds=seconds))
        assert slow.views.seen_until() == seen
    fast.close()
    slow.close()


def test_a_consumer_that_has_left_holds_nobody_back_and_what_it_saw_still_counts(tmp_path: Path) -> None:
    first, second = (open_database(f"sqlite:///{tmp_path}/status.db", feed=name) for name in ("a", "b"))
    first.views.apply_events([], seen_until=NOW)
    first.views.leave()
    second.views.leave()
    assert second.views.seen_until() == NOW
    second.views.apply_events([], seen_until=NOW + timedelta(seconds=1))
    assert first.views.seen_until() == NOW + timedelta(seconds=1)
    first.close()
    second.close()


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


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (TaskFilter(), "sqlite_autoindex_tasks_1 (task_id<?)"),
        (TaskFilter(tenant_id="a"), "tasks_of_tenant (tenant_id=? AND state=? AND task_id<?)"),
        (TaskFilter(tenant_id="a", states=frozenset({TaskState.FAILED})), "tasks_of_tenant (tenant_id=? AND state=?"),
        (TaskFilter(tenant_id="a", model="m"), "tasks_of_tenant_on_model (tenant_id=? AND model=? AND state=? AND"),
        (TaskFilter(states=frozenset({TaskState.FAILED, TaskState.EXPIRED})), "tasks_in_state (state=? AND task_id<?)"),
    ],
    ids=range(5),
)
def test_a_list_reads_ranges_of_an_index_and_nothing_else(
    sqlite_store: SqlTaskViewStore, wanted: TaskFilter, index: str
) -> None:
    engine = sqlite_store._reader
    query = listed_ids(wanted, TASK_ID, 20).compile(dialect=engine.dialect, compile_kwargs={"literal_binds": True})
    with engine.connect() as connection:
        plan = [row[-1] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}")]
    reads = [line for line in plan if " tasks " in line]
    assert reads
    assert all(f"SEARCH tasks USING COVERING INDEX {index}" in line for line in reads), reads
