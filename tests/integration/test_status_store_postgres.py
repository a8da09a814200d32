"""The status database on PostgreSQL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import inspect

from services.status.errors import UnstorableError, ViewStoreError
from services.status.store.database import Database, open_database
from services.status.store.sql import SqlTaskViewStore, open_store
from services.status.store.tables import METADATA
from shared.contracts.event import started_event
from shared.domain.task import EventType
from tests.contract.news_log import NewsLogContract, Told
from tests.contract.task_view_store import TaskViewStoreContract
from tests.contract.work_store import Stores, WorkStoreContract
from tests.support.builders import NOW, TASK_ID, make_event, make_task
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.postgres import PostgresServer


@pytest.fixture
def url(postgres_server: PostgresServer) -> str:
    return postgres_server.create_database()


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    opened = open_database(url)
    yield opened
    opened.close()


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
    postgres_server.stop()
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
