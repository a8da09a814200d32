"""A KeyReader that answers in bounded time, over one that may hang: libpq has no timeout of its own for a query."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar

from shared.auth.errors import TenantStoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shared.auth.store.ports import ApiKey, KeyReader, Tenant, WebhookSecret

T = TypeVar("T")
# As many as the engine has connections. What hangs keeps its thread until the connection breaks or answers.
THREADS: Final = 4
SECONDS: Final = 3.0


class BoundedReader:
    """Runs each call in a thread (a greenlet where gevent has patched) and waits for so many seconds."""

    def __init__(self, reader: KeyReader, seconds: float = SECONDS) -> None:
        self._reader = reader
        self._seconds = seconds
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="keys")

    def find(self, prefix: str) -> tuple[ApiKey, Tenant] | None:
        """See KeyReader."""
        return self._bounded(lambda: self._reader.find(prefix))

    def tenants(self) -> Sequence[Tenant]:
        """See KeyReader."""
        return self._bounded(self._reader.tenants)

    def webhook_secrets(self, tenant_id: str) -> Sequence[WebhookSecret]:
        """See KeyReader."""
        return self._bounded(lambda: self._reader.webhook_secrets(tenant_id))

    def check(self) -> None:
        """See KeyReader."""
        return self._bounded(self._reader.check)

    def _bounded(self, call: Callable[[], T]) -> T:
        future = self._threads.submit(call)
        try:
            return future.result(self._seconds)
        except TimeoutError as exc:
            future.cancel()  # where it has not begun, it must not pile up
            message = f"the store of tenants did not answer in {self._seconds:g} s"
            raise TenantStoreError(message) from exc
