"""What each tenant's callbacks are signed with, as of a few seconds ago."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from shared.auth.errors import TenantStoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from shared.auth.store.ports import KeyReader, WebhookSecret
    from shared.clock import Clock

# A revocation counts after this long.
FRESH_SECONDS: Final = 5.0
_MOST_KNOWN: Final = 10_000


class SigningSecrets:
    """Asks the tenant store once in a few seconds for each tenant. Thread-safe."""

    def __init__(self, reader: KeyReader, clock: Clock, monotonic: Callable[[], float]) -> None:
        self._reader = reader
        self._clock = clock
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._known: dict[str, tuple[float, Sequence[WebhookSecret]]] = {}

    def of(self, tenant_id: str) -> list[WebhookSecret]:
        """Those in force, the newest first. Raises TenantStoreError."""
        now = self._monotonic()
        with self._lock:
            read_at, secrets = self._known.get(tenant_id, (None, ()))
        if read_at is None or now - read_at >= FRESH_SECONDS:
            secrets = self._reader.webhook_secrets(tenant_id)
            with self._lock:
                self._known.pop(tenant_id, None)
                self._known[tenant_id] = (now, secrets)
                if len(self._known) > _MOST_KNOWN:
                    del self._known[next(iter(self._known))]
        at = self._clock()
        return [secret for secret in secrets if secret.signs(at)]

    def problem(self) -> str | None:
        """Why nothing can be signed, or None. Asks the store."""
        try:
            self._reader.check()
        except TenantStoreError as exc:
            return exc.message
        return None
