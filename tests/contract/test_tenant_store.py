"""The fake store of tenants, and SQLite."""

from __future__ import annotations

import sqlite3
import threading
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import create_engine, inspect

from shared.auth.errors import TenantStoreError
from shared.auth.store.memory import MemoryTenantStore
from shared.auth.store.reader import open_reader
from shared.auth.store.sql import SqlTenantStore, open_store
from shared.auth.store.tables import METADATA
from shared.domain.errors import ConfigurationError
from tests.contract.tenant_store import ACME, KEY, TenantStoreContract

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/tenants.db"


@pytest.fixture
def sqlite_store(url: str) -> Iterator[SqlTenantStore]:
    store = open_store(url)
    yield store
    store.close()


class TestMemoryTenantStore(TenantStoreContract):
    @pytest.fixture
    def store(self) -> MemoryTenantStore:
        return MemoryTenantStore()

    def test_it_fails_while_it_is_switched_off(self, store: MemoryTenantStore) -> None:
        store.available = False
        with pytest.raises(TenantStoreError):
            store.find(KEY.prefix)


class TestSqliteTenantStore(TenantStoreContract):
    @pytest.fixture
    def store(self, sqlite_store: SqlTenantStore) -> SqlTenantStore:
        return sqlite_store


def test_services_read_what_is_written_and_cannot_write(sqlite_store: SqlTenantStore, url: str) -> None:
    sqlite_store.add_tenant(ACME)
    sqlite_store.add_key(KEY)
    reader = open_reader(url)
    assert reader.find(KEY.prefix) == (KEY, ACME)
    with pytest.raises(TenantStoreError, match="readonly"):
        SqlTenantStore(reader._engine).revoke(KEY.prefix, KEY.created_at)


def test_readers_are_not_held_up_by_a_writer(sqlite_store: SqlTenantStore, url: str, tmp_path: Path) -> None:
    sqlite_store.add_tenant(ACME)
    sqlite_store.add_key(KEY)
    writer = sqlite3.connect(tmp_path / "tenants.db", isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    writer.execute("UPDATE tenants SET plan = 'vip'")
    assert open_reader(url).find(KEY.prefix) == (KEY, ACME)
    writer.close()


def test_a_file_that_is_gone_or_replaced_is_noticed(url: str, tmp_path: Path) -> None:
    store, reader = open_store(url), open_reader(url)
    store.add_tenant(ACME)
    store.add_key(KEY)
    assert reader.find(KEY.prefix) is not None
    for path in tmp_path.iterdir():
        path.unlink()
    with pytest.raises(TenantStoreError):
        reader.find(KEY.prefix)
    open_store(url)
    assert reader.find(KEY.prefix) is None


@pytest.mark.parametrize("content", [b"", b"no database at all" * 100])
def test_a_file_that_is_not_a_store_is_reported(tmp_path: Path, url: str, content: bytes) -> None:
    (tmp_path / "tenants.db").write_bytes(content)
    reader = open_reader(url)
    with pytest.raises(TenantStoreError):
        reader.check()
    with pytest.raises(TenantStoreError):
        reader.find(KEY.prefix)


def test_a_record_that_cannot_be_read_is_reported(sqlite_store: SqlTenantStore, tmp_path: Path) -> None:
    sqlite_store.add_tenant(ACME)
    with sqlite3.connect(tmp_path / "tenants.db") as connection:
        connection.execute("UPDATE tenants SET overrides = '{'")
    connection.close()
    with pytest.raises(TenantStoreError, match="acme"):
        sqlite_store.tenant("acme")


def test_processes_that_make_the_store_at_once_all_succeed(url: str) -> None:
    barrier = threading.Barrier(6)
    failures: list[BaseException] = []

    def make() -> None:
        barrier.wait()
        try:
            open_store(url).close()
        except (TenantStoreError, ConfigurationError) as exc:
            failures.append(exc)

    threads = [threading.Thread(target=make) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    open_reader(url).check()


def test_the_migrations_make_exactly_the_tables_of_the_code(sqlite_store: SqlTenantStore) -> None:
    made, wanted = inspect(sqlite_store._engine), create_engine("sqlite://")
    METADATA.create_all(wanted)
    expected = inspect(wanted)
    assert set(made.get_table_names()) == {*expected.get_table_names(), "alembic_version"}
    for table in expected.get_table_names():
        assert str(made.get_columns(table)) == str(expected.get_columns(table))
        assert made.get_indexes(table) == expected.get_indexes(table)
        assert made.get_foreign_keys(table) == expected.get_foreign_keys(table)
    wanted.dispose()


def test_a_store_of_a_newer_version_is_left_as_it_is(sqlite_store: SqlTenantStore, url: str, tmp_path: Path) -> None:
    del sqlite_store
    with sqlite3.connect(tmp_path / "tenants.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(ConfigurationError, match="another version"):
        open_store(url)


@pytest.mark.parametrize(
    "url",
    [
        *("", "nonsense", "mysql://h/d", "sqlite://", "sqlite:///relative.db", "sqlite:////no/such/folder/tenants.db"),
        *("postgresql://", "postgresql://user:sec#ret@host/db", "postgresql://host:many/db"),
    ],
)
def test_a_useless_address_is_a_configuration_error_that_shows_no_secret(url: str) -> None:
    for opened in (open_reader, open_store):
        with pytest.raises(ConfigurationError, match="ATELIER_TENANTS_URL") as failure:
            opened(url)
        assert "sec" not in failure.value.message
