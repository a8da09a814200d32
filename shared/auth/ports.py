"""Who a request comes from, and what tells it. Adapter: KeyStore."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from shared.domain.plans import Plan
    from shared.domain.task import EventType, Lane


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """The owner of a key, as of a few seconds ago.

    It is called back at ``callback_url`` for ``callback_events`` (None: every end) where a request names no URL.
    """

    tenant_id: str
    plan: Plan
    key_prefix: str
    callback_url: str | None = None
    callback_events: tuple[EventType, ...] | None = None

    @property
    def lane(self) -> Lane:
        """The lane of its plan."""
        return self.plan.lane


class Authenticator(Protocol):
    """Tells whose key it is."""

    def remembers(self, key: str) -> bool:
        """Whether ``authenticate`` can tell without more than one hash and, once in some seconds, one look-up.

        Costs neither. It says nothing of whether the key is right.
        """
        ...

    def authenticate(self, key: str) -> Principal | None:
        """The key's owner, or None when there is no such key.

        Raises KeyRefusedError and TenantSuspendedError for keys that are known and not in force, TenantStoreError when
        nobody can tell now.
        """
        ...
