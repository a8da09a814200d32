"""The fake RetentionStore, and SQLite."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from services.status.store.database import open_database
from services.status.store.memory import MemoryTaskViewStore
from shared.domain.task import EventType
from shared.ids import new_task_id
from tests.contract.retention_store import Kept, RetentionStoreContract
from tests.support.builders import NOW, make_event, make_task

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class TestMemoryRetentionStore(RetentionStoreContract):
    @pytest.fixture
    def kept(self) -> Kept:
        store = MemoryTaskViewStore()
        return Kept(store, store, store)


class TestSqliteRetentionStore(RetentionStoreContract):
    @pytest.fixture
    def kept(self, tmp_path: Path) -> Iterator[Kept]:
        with closing(open_database(f"sqlite:///{tmp_path}/status.db")) as database:
            yield Kept(database.views, database.news, database.retention)


def test_callbacks_that_are_done_with_go_and_those_that_are_owed_stay(tmp_path: Path) -> None:
    with closing(open_database(f"sqlite:///{tmp_path}/status.db")) as database:
        for _ in range(5):
            task = make_task(task_id=new_task_id(), callback="https://client.example/hook")
            database.views.apply_events([make_event(EventType.SUCCEEDED, task)], seen_until=NOW)
        later = NOW + timedelta(minutes=1)
        assert database.retention.drop_deliveries(later, 10) == 0
        with closing(sqlite3.connect(tmp_path / "status.db")) as connection, connection:
            ended = "UPDATE webhook_deliveries SET state = 'delivered', until_at = due_at WHERE rowid <= 3"
            connection.execute(ended)
        assert database.retention.drop_deliveries(NOW, 10) == 0
        assert database.retention.drop_deliveries(later, 2) == 2
        assert database.retention.drop_deliveries(later, 2) == 1
        with closing(sqlite3.connect(tmp_path / "status.db")) as connection:
            assert connection.execute("SELECT count(*) FROM webhook_deliveries").fetchone() == (2,)
