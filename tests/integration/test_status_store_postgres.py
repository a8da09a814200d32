"""The status database on PostgreSQL."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import inspect

from services.status.errors import UnstorableError, ViewStoreError
from services.status.store.database import Database, open_database
from services.status.store.sql import SqlTaskViewStore, open_store
from services.status.store.tables import METADATA
from shared.contracts.event import started_event
from shared.domain.task import EventType
from tests.contract.concurrent_writers import ConcurrentWritersContract, in_threads
from tests.contract.delivery_store import DeliveryStoreContract, Outbox
from tests.contract.news_log import NewsLogContract, Told
from tests.contract.restored_views import RestoredViewsContract
from tests.contract.restored_views import Stores as RestoredStores
from tests.contract.retention_store import Kept, RetentionStoreContract
from tests.contract.silent_work import SilentWorkContract
from tests.contract.silent_work import Stores as SilentStores
from tests.contract.task_view_store import TaskViewStoreContract
from tests.contract.work_store import Stores, WorkStoreContract
from tests.support.builders import NOW, TASK_ID, make_event, make_task
from tests.support.waiting import until
from tests.support.worker_process import CHECKOUT as ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.postgres import PostgresServer
    from tests.support.processes import ProcessGuard


@pytest.fixture
def url(postgres_server: PostgresServer) -> str:
    return postgres_server.create_database()


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = open_database(url)
    yield opened
    opened.close()


class TestPostgresWriters(ConcurrentWritersContract):
    """The fixture ``url`` is above."""


class TestPostgresTaskViewStore(TaskViewStoreContract):
    @pytest.fixture
    def store(self, database: Database) -> SqlTaskViewStore:
        return database.views


class TestPostgresWorkStore(WorkStoreContract):
    @pytest.fixture
    def stores(self, database: Database) -> Stores:
        return Stores(database.views, database.work)


class TestPostgresNewsLog(NewsLogContract):
    @pytest.fixture
    def told(self, database: Database) -> Told:
        return Told(database.views, database.news)


class TestPostgresDeliveryStore(DeliveryStoreContract):
    @pytest.fixture
    def outbox(self, database: Database) -> Outbox:
        return Outbox(database.views, database.deliveries)


class TestPostgresSilentWork(SilentWorkContract):
    @pytest.fixture
    def stores(self, database: Database) -> SilentStores:
        return SilentStores(database.views, database.work)


class TestPostgresRestoredViews(RestoredViewsContract):
    @pytest.fixture
    def stores(self, database: Database) -> RestoredStores:
        return RestoredStores(database.views, database.news, database.work)


class TestPostgresRetentionStore(RetentionStoreContract):
    @pytest.fixture
    def kept(self, database: Database) -> Kept:
        return Kept(database.views, database.news, database.retention)


def test_the_migrations_make_the_tables_of_the_code(database: Database) -> None:
    made = inspect(database.engine)
    assert set(made.get_table_names()) == {*METADATA.tables, "status_version"}
    for table in METADATA.sorted_tables:
        columns = {column["name"]: column["nullable"] for column in made.get_columns(table.name)}
        assert columns == {column.name: column.nullable for column in table.columns}
        indexes = {index["name"]: index["column_names"] for index in made.get_indexes(table.name)}
        assert indexes == {index.name: [column.name for column in index.columns] for index in table.indexes}


def test_a_server_that_restarts_is_used_again_and_reported_meanwhile(
    database: Database, postgres_server: PostgresServer
) -> None:
    database.views.apply_events([make_event()], seen_until=NOW)
    postgres_server.kill()
    for call in (database.views.check, lambda: database.views.apply_events([make_event()], seen_until=NOW)):
        with pytest.raises(ViewStoreError) as failure:
            call()
        assert failure.value.retryable
    postgres_server.start()
    assert until(lambda: database.views.get(TASK_ID)) is not None
    database.views.apply_events([make_event(EventType.STARTED)], seen_until=NOW)


def test_a_value_that_the_database_cannot_hold_is_told_from_an_outage(database: Database) -> None:
    event = started_event(make_task(), worker="w\0", execution="e", at=NOW)
    with pytest.raises(UnstorableError):
        database.views.apply_events([make_event(), event], seen_until=NOW)
    assert database.views.get(TASK_ID) is None


def test_an_address_shows_no_secret_where_nobody_answers() -> None:
    with pytest.raises(ViewStoreError) as failure:
        open_store("postgresql://user:sesame@127.0.0.1:1/status")
    assert "sesame" not in failure.value.message


def test_processes_that_bring_an_empty_database_up_at_once_all_succeed(url: str) -> None:
    epochs: set[str] = set()

    def bring_up() -> None:
        with closing(open_database(url)) as opened:
            epochs.add(opened.news.epoch())

    in_threads([bring_up] * 6)
    assert len(epochs) == 1


def test_a_writer_that_is_killed_in_its_transaction_leaves_nothing_and_holds_nobody_up(
    database: Database, url: str, process_guard: ProcessGuard, tmp_path: Path
) -> None:
    code = (
        "import sys, time\n"
        "from services.status.store.engine import open_engine, writing\n"
        "from services.status.store.tables import LEASES\n"
        "with writing(open_engine(sys.argv[1])).begin() as connection:\n"
        "    connection.execute(LEASES.insert().values(name='n', holder='h', until=1))\n"
        "    print('held', flush=True)\n"
        "    time.sleep(600)\n"
    )
    log = tmp_path / "holder.log"
    process = process_guard.spawn([sys.executable, "-c", code, url], log=log, cwd=ROOT)
    until(lambda: "held" in log.read_text(), 20, "the lock to be held")
    process_guard.kill(process)
    database.views.apply_events([make_event()], seen_until=NOW)
    assert database.work.take_lease("n", "another", NOW, 1)
