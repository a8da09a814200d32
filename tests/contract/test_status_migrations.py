"""What the migrations of the status database make of an empty one, an old one and a newer one."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, inspect

from services.status.errors import ViewStoreError
from services.status.store.database import open_database
from services.status.store.ports import TaskFilter
from services.status.store.tables import METADATA
from shared.domain.errors import ConfigurationError
from shared.domain.task import EventType, TaskState
from shared.ids import new_task_id
from tests.support.builders import NOW, TASK_ID, make_event, make_task
from tests.support.views import replayed

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Inspector

# As versions before migrations made it.
EARLIER = """
CREATE TABLE tasks (task_id VARCHAR(36) NOT NULL, view TEXT NOT NULL, PRIMARY KEY (task_id));
CREATE TABLE feeds (name VARCHAR(32) NOT NULL, seen_until BIGINT NOT NULL, PRIMARY KEY (name));
CREATE TABLE positions (name VARCHAR(32) NOT NULL, position BIGINT NOT NULL, PRIMARY KEY (name));
"""
LIFE = (EventType.QUEUED, EventType.STARTED, EventType.SUCCEEDED)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/status.db"


@pytest.fixture
def earlier(tmp_path: Path) -> None:
    ended = replayed([make_event(kind) for kind in LIFE])
    waiting = replayed([make_event(task=make_task(task_id=new_task_id(), tenant_id="umbrella"))])
    unknown = replayed([make_event(EventType.PROGRESS, make_task(task_id=new_task_id()))])
    rows = [(view.task_id, view.model_dump_json(exclude_none=True)) for view in (ended, waiting, unknown)]
    with closing(sqlite3.connect(tmp_path / "status.db")) as connection, connection:
        connection.executescript(EARLIER)
        connection.executemany("INSERT INTO tasks VALUES (?, ?)", [*rows, ("broken", "{")])
        connection.execute("INSERT INTO feeds VALUES ('events', 1767614400000000)")
        connection.execute("INSERT INTO positions VALUES ('work', 41)")


def schema_of(made: Inspector) -> dict[str, object]:
    names = [name for name in made.get_table_names() if name != "status_version"]
    return {name: (str(made.get_columns(name)), sorted(map(str, made.get_indexes(name)))) for name in names}


def expected_schema() -> dict[str, object]:
    wanted = create_engine("sqlite://")
    METADATA.create_all(wanted)
    try:
        return schema_of(inspect(wanted))
    finally:
        wanted.dispose()


def test_the_migrations_make_exactly_the_tables_of_the_code(url: str) -> None:
    database = open_database(url)
    assert schema_of(inspect(database.engine)) == expected_schema()
    database.close()


@pytest.mark.usefixtures("earlier")
def test_a_database_of_an_earlier_version_is_brought_up_with_all_it_holds(url: str) -> None:
    database = open_database(url)
    assert schema_of(inspect(database.engine)) == expected_schema()
    assert database.views.get(TASK_ID) == replayed([make_event(kind) for kind in LIFE])
    [listed] = database.views.listed(TaskFilter(tenant_id="acme", states=frozenset({TaskState.SUCCEEDED})), None, 10)
    assert listed.task_id == TASK_ID
    [waiting] = database.views.listed(TaskFilter(model="simulated", tenant_id="umbrella"), None, 10)
    assert waiting.state is TaskState.QUEUED
    assert len(database.views.listed(TaskFilter(), None, 10)) == 3
    assert database.views.seen_until() == NOW
    assert (database.work.latest_change(), database.news.latest()) == (41, 0)
    assert database.news.epoch()
    database.close()


@pytest.mark.usefixtures("earlier")
def test_what_fails_half_way_leaves_the_database_as_it_was(url: str, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "status.db")) as connection, connection:
        connection.execute("CREATE TABLE tasks_of_tenant (in_the_way TEXT)")
    with pytest.raises(ViewStoreError):
        open_database(url)
    with closing(sqlite3.connect(tmp_path / "status.db")) as connection, connection:
        assert connection.execute("SELECT count(*) FROM tasks").fetchone() == (4,)
        connection.execute("DROP TABLE tasks_of_tenant")
    open_database(url).close()


def test_a_database_of_a_newer_version_is_left_as_it_is(url: str, tmp_path: Path) -> None:
    open_database(url).close()
    with closing(sqlite3.connect(tmp_path / "status.db")) as connection, connection:
        connection.execute("UPDATE status_version SET version_num = '9999'")
    with pytest.raises(ConfigurationError, match=r"ATELIER_DATABASE_URL.*another version"):
        open_database(url)


@pytest.mark.usefixtures("earlier")
def test_processes_that_bring_a_database_up_at_once_all_succeed(url: str) -> None:
    barrier = threading.Barrier(6)
    failures: list[BaseException] = []
    epochs = set()

    def bring_up() -> None:
        barrier.wait()
        try:
            database = open_database(url)
            epochs.add(database.news.epoch())
            database.views.apply_events([make_event(task=make_task(task_id=new_task_id()))], seen_until=NOW)
            database.close()
        except (ViewStoreError, ConfigurationError) as exc:
            failures.append(exc)

    threads = [threading.Thread(target=bring_up) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(epochs) == 1
    database = open_database(url)
    assert len(database.views.listed(TaskFilter(), None, 20)) == 9
    database.close()
