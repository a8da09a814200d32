"""What is kept of tenants and keys, and who asks for it. Adapters: sql and memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from shared.domain.task import EventType


class TenantState(StrEnum):
    """Whether a tenant's keys are in force."""

    ACTIVE = "active"
    SUSPENDED = "suspended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """One tenant. ``overrides`` stand in place of single values of its plan, by their names in the plans file.

    It is called back at ``callback_url`` for ``callback_events`` (None: every end) where a request names no URL.
    """

    id: str
    name: str
    plan: str
    created_at: datetime
    state: TenantState = TenantState.ACTIVE
    overrides: Mapping[str, Any] = field(default_factory=dict)
    callback_url: str | None = None
    callback_events: tuple[EventType, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """One key, as its keyed hash (hex)."""

    prefix: str
    hash: str
    tenant_id: str
    name: str
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSecret:
    """What a tenant's callbacks are signed with."""

    id: str
    tenant_id: str
    text: str = field(repr=False)
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None

    def signs(self, at: datetime) -> bool:
        """Whether it is in force."""
        return self.revoked_at is None and (self.expires_at is None or at < self.expires_at)


class KeyReader(Protocol):
    """What a service may do with the store. Every method raises TenantStoreError when it cannot be used."""

    def find(self, prefix: str) -> tuple[ApiKey, Tenant] | None:
        """A key and its tenant."""
        ...

    def tenants(self) -> Sequence[Tenant]:
        """Every tenant, by id."""
        ...

    def webhook_secrets(self, tenant_id: str) -> Sequence[WebhookSecret]:
        """All that a tenant ever had, the newest first."""
        ...

    def check(self) -> None:
        """Return when the store can be read."""
        ...


class TenantStore(KeyReader, Protocol):
    """What the admin commands may do besides. Every method raises TenantStoreError when the store cannot be used."""

    def prepare(self) -> None:
        """Make or bring up to date what the store needs; safe to call from many processes at once."""
        ...

    def add_tenant(self, tenant: Tenant) -> bool:
        """Keep a new tenant; false when the id is taken."""
        ...

    def tenant(self, tenant_id: str) -> Tenant | None:
        """One tenant."""
        ...

    def set_plan(self, tenant_id: str, plan: str, overrides: Mapping[str, Any]) -> bool:
        """Change plan and overrides; false when there is no such tenant."""
        ...

    def set_state(self, tenant_id: str, state: TenantState) -> bool:
        """Suspend or resume; false when there is no such tenant."""
        ...

    def set_callback(self, tenant_id: str, url: str | None, events: tuple[EventType, ...] | None) -> bool:
        """Change where the tenant is called back, and for what; false when there is no such tenant."""
        ...

    def add_webhook_secret(self, new: WebhookSecret, others_expire_at: datetime | None = None) -> bool:
        """Keep a new secret of a tenant that exists; false, and nothing has changed, when its id is taken.

        With ``others_expire_at`` its other secrets expire, not later than they would have anyway, in the same step.
        """
        ...

    def revoke_webhook_secret(self, secret_id: str, at: datetime) -> WebhookSecret | None:
        """End a secret; one that is revoked already stays as it is. None when there is no such secret."""
        ...

    def add_key(self, key: ApiKey) -> bool:
        """Keep a new key of a tenant that exists; false when its prefix is taken."""
        ...

    def keys(self, tenant_id: str | None = None) -> Sequence[ApiKey]:
        """Every key, or those of one tenant, in the order of their making."""
        ...

    def revoke(self, prefix: str, at: datetime) -> bool:
        """End a key; one that is revoked already stays as it is. False when there is no such key."""
        ...

    def replace_key(self, old_prefix: str, new: ApiKey, old_expires_at: datetime) -> bool:
        """Keep a new key and let the old one expire, not later than it would have anyway, in one step.

        False, and nothing has changed, when the new prefix is taken.
        """
        ...
