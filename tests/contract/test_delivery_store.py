"""The fake outbox, and SQLite."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest

from services.status.errors import ViewStoreError
from services.status.store.database import open_database
from services.status.store.deliveries_memory import MemoryDeliveryStore
from services.status.store.memory import MemoryTaskViewStore
from tests.contract.delivery_store import DeliveryStoreContract, Outbox

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def sqlite_outbox(tmp_path: Path) -> Iterator[Outbox]:
    database = open_database(f"sqlite:///{tmp_path}/status.db")
    yield Outbox(database.views, database.deliveries)
    database.close()


class TestMemoryDeliveryStore(DeliveryStoreContract):
    @pytest.fixture
    def outbox(self) -> Outbox:
        views = MemoryTaskViewStore()
        return Outbox(views, MemoryDeliveryStore(views))


class TestSqliteDeliveryStore(DeliveryStoreContract):
    @pytest.fixture
    def outbox(self, sqlite_outbox: Outbox) -> Outbox:
        return sqlite_outbox


def test_a_database_that_is_gone_is_reported(sqlite_outbox: Outbox, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "status.db") as connection:
        connection.execute("DROP TABLE webhook_deliveries")
    connection.close()
    with pytest.raises(ViewStoreError):
        sqlite_outbox.store.lines("", 1)
    with pytest.raises(ViewStoreError):
        sqlite_outbox.store.check()
