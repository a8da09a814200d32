"""The fake WorkStore, and SQLite."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest

from services.status.errors import ViewStoreError
from services.status.store.database import open_database
from services.status.store.memory import MemoryTaskViewStore
from tests.contract.work_store import Stores, WorkStoreContract
from tests.support.builders import NOW, TASK_ID

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def sqlite_stores(tmp_path: Path) -> Iterator[Stores]:
    database = open_database(f"sqlite:///{tmp_path}/status.db")
    yield Stores(database.views, database.work)
    database.close()


class TestMemoryWorkStore(WorkStoreContract):
    @pytest.fixture
    def stores(self) -> Stores:
        store = MemoryTaskViewStore()
        return Stores(store, store)


class TestSqliteWorkStore(WorkStoreContract):
    @pytest.fixture
    def stores(self, sqlite_stores: Stores) -> Stores:
        return sqlite_stores


def test_a_database_that_is_gone_is_reported(sqlite_stores: Stores, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "status.db") as connection:
        connection.execute("DROP TABLE work")
    connection.close()
    with pytest.raises(ViewStoreError):
        sqlite_stores.work.raise_level(TASK_ID, 1, 8, NOW)
