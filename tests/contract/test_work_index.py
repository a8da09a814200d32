from __future__ import annotations

import pytest

from shared.storage.memory import MemoryStore
from tests.contract.work_index import WorkIndexContract


class TestWorkIndexInMemory(WorkIndexContract):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()
