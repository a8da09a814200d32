from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from shared.auth.errors import TenantStoreError
from shared.auth.store.bounded import THREADS, BoundedReader
from shared.auth.store.memory import MemoryTenantStore
from tests.contract.tenant_store import ACME, KEY

if TYPE_CHECKING:
    from shared.auth.store.ports import ApiKey, Tenant


class HangingStore(MemoryTenantStore):
    def __init__(self) -> None:
        super().__init__()
        self.flows = threading.Event()

    def find(self, prefix: str) -> tuple[ApiKey, Tenant] | None:
        self.flows.wait(30)
        return super().find(prefix)


def test_a_store_that_hangs_is_one_that_failed_and_is_used_again_when_it_answers() -> None:
    store = HangingStore()
    store.add_tenant(ACME)
    store.add_key(KEY)
    reader = BoundedReader(store, seconds=0.01)
    for _ in range(THREADS + 2):
        with pytest.raises(TenantStoreError, match=r"did not answer in 0\.01 s"):
            reader.find(KEY.prefix)
    store.flows.set()
    assert BoundedReader(store).find(KEY.prefix) == (KEY, ACME)
    assert store.reads <= THREADS + 1


def test_what_the_store_raises_is_passed_on() -> None:
    store = MemoryTenantStore()
    store.available = False
    with pytest.raises(TenantStoreError, match="switched off"):
        BoundedReader(store).check()
