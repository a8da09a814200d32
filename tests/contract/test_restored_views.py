"""The fake stores, told of old ends, and SQLite."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from services.status.store.database import open_database
from services.status.store.memory import MemoryTaskViewStore
from tests.contract.restored_views import RestoredViewsContract, Stores

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class TestMemoryRestoredViews(RestoredViewsContract):
    @pytest.fixture
    def stores(self) -> Stores:
        store = MemoryTaskViewStore()
        return Stores(store, store, store)


class TestSqliteRestoredViews(RestoredViewsContract):
    @pytest.fixture
    def stores(self, tmp_path: Path) -> Iterator[Stores]:
        database = open_database(f"sqlite:///{tmp_path}/status.db")
        yield Stores(database.views, database.news, database.work)
        database.close()
