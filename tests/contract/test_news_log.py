"""The fake NewsLog, and SQLite."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from services.status.store.database import open_database
from services.status.store.memory import MemoryTaskViewStore
from tests.contract.news_log import NewsLogContract, Told

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class TestMemoryNewsLog(NewsLogContract):
    @pytest.fixture
    def told(self) -> Told:
        store = MemoryTaskViewStore()
        return Told(store, store)


class TestSqliteNewsLog(NewsLogContract):
    @pytest.fixture
    def told(self, tmp_path: Path) -> Iterator[Told]:
        database = open_database(f"sqlite:///{tmp_path}/status.db")
        yield Told(database.views, database.news)
        database.close()


def test_each_database_has_an_epoch_of_its_own(tmp_path: Path) -> None:
    epochs = set()
    for name in ("a", "b"):
        database = open_database(f"sqlite:///{tmp_path}/{name}.db")
        epochs.add(database.news.epoch())
        database.close()
    assert len(epochs) == 2
