"""The store of tenants on PostgreSQL."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import inspect

from shared.auth.errors import TenantStoreError
from shared.auth.store.reader import open_reader
from shared.auth.store.sql import SqlTenantStore, open_store
from shared.auth.store.tables import METADATA
from tests.contract.tenant_store import ACME, KEY, TenantStoreContract
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.postgres import PostgresServer


@pytest.fixture
def url(postgres_server: PostgresServer) -> str:
    return postgres_server.create_database()


@pytest.fixture
def postgres_store(url: str) -> Iterator[SqlTenantStore]:
    store = open_store(url)
    yield store
    store.close()


class TestPostgresTenantStore(TenantStoreContract):
    @pytest.fixture
    def store(self, postgres_store: SqlTenantStore) -> SqlTenantStore:
        return postgres_store


def test_services_read_what_is_written_and_cannot_write(postgres_store: SqlTenantStore, url: str) -> None:
    postgres_store.add_tenant(ACME)
    postgres_store.add_key(KEY)
    reader = open_reader(url)
    assert reader.find(KEY.prefix) == (KEY, ACME)
    with pytest.raises(TenantStoreError, match="read-only"):
        SqlTenantStore(reader._engine).revoke(KEY.prefix, KEY.created_at)
    reader.close()


def test_processes_that_make_the_store_at_once_all_succeed(url: str) -> None:
    barrier = threading.Barrier(6)
    failures: list[BaseException] = []

    def make() -> None:
        barrier.wait()
        try:
            open_store(url).close()
        except TenantStoreError as exc:
            failures.append(exc)

    threads = [threading.Thread(target=make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    reader = open_reader(url)
    reader.check()
    reader.close()


def test_the_migrations_make_the_columns_of_the_code(postgres_store: SqlTenantStore) -> None:
    made = inspect(postgres_store._engine)
    assert set(made.get_table_names()) == {*METADATA.tables, "alembic_version"}
    for table in METADATA.sorted_tables:
        columns = {column["name"]: column["nullable"] for column in made.get_columns(table.name)}
        assert columns == {column.name: column.nullable for column in table.columns}


def test_a_server_that_restarts_is_used_again_and_reported_meanwhile(
    postgres_store: SqlTenantStore, postgres_server: PostgresServer, url: str
) -> None:
    postgres_store.add_tenant(ACME)
    postgres_store.add_key(KEY)
    reader = open_reader(url)
    reader.check()
    postgres_server.kill()
    with pytest.raises(TenantStoreError):
        reader.find(KEY.prefix)
    postgres_server.start()
    assert until(lambda: reader.find(KEY.prefix)) == (KEY, ACME)
    reader.close()
