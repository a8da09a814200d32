"""A TenantStore in memory, for tests."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from shared.auth.errors import TenantStoreError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from shared.auth.store.ports import ApiKey, Tenant, TenantState, WebhookSecret
    from shared.domain.task import EventType


class MemoryTenantStore:
    """Fails like a database that is away while ``available`` is false. ``reads`` counts look-ups."""

    def __init__(self) -> None:
        self.available = True
        self.reads = 0
        self._tenants: dict[str, Tenant] = {}
        self._keys: dict[str, ApiKey] = {}
        self._secrets: dict[str, WebhookSecret] = {}

    def prepare(self) -> None:
        """See TenantStore."""
        self.check()

    def check(self) -> None:
        """See KeyReader."""
        if not self.available:
            message = "switched off"
            raise TenantStoreError(message)

    def find(self, prefix: str) -> tuple[ApiKey, Tenant] | None:
        """See KeyReader."""
        self.reads += 1
        self.check()
        key = self._keys.get(prefix)
        return None if key is None else (key, self._tenants[key.tenant_id])

    def add_tenant(self, tenant: Tenant) -> bool:
        """See TenantStore."""
        self.check()
        return self._tenants.setdefault(tenant.id, tenant) is tenant

    def tenant(self, tenant_id: str) -> Tenant | None:
        """See TenantStore."""
        self.check()
        return self._tenants.get(tenant_id)

    def tenants(self) -> list[Tenant]:
        """See TenantStore."""
        self.check()
        return [self._tenants[tenant_id] for tenant_id in sorted(self._tenants)]

    def set_plan(self, tenant_id: str, plan: str, overrides: Mapping[str, Any]) -> bool:
        """See TenantStore."""
        return self._change(tenant_id, plan=plan, overrides=dict(overrides))

    def set_state(self, tenant_id: str, state: TenantState) -> bool:
        """See TenantStore."""
        return self._change(tenant_id, state=state)

    def set_callback(self, tenant_id: str, url: str | None, events: tuple[EventType, ...] | None) -> bool:
        """See TenantStore."""
        return self._change(tenant_id, callback_url=url, callback_events=events)

    def webhook_secrets(self, tenant_id: str) -> list[WebhookSecret]:
        """See KeyReader."""
        self.check()
        found = [secret for secret in self._secrets.values() if secret.tenant_id == tenant_id]
        return sorted(found, key=lambda secret: (-secret.created_at.timestamp(), secret.id))

    def add_webhook_secret(self, new: WebhookSecret, others_expire_at: datetime | None = None) -> bool:
        """See TenantStore."""
        self.check()
        if new.tenant_id not in self._tenants:
            message = f"no tenant {new.tenant_id}"
            raise TenantStoreError(message)
        if new.id in self._secrets:
            return False
        if others_expire_at is not None:
            for old in self.webhook_secrets(new.tenant_id):
                expires_at = min(old.expires_at or others_expire_at, others_expire_at)
                self._secrets[old.id] = replace(old, expires_at=expires_at)
        self._secrets[new.id] = new
        return True

    def revoke_webhook_secret(self, secret_id: str, at: datetime) -> WebhookSecret | None:
        """See TenantStore."""
        self.check()
        secret = self._secrets.get(secret_id)
        if secret is not None:
            self._secrets[secret_id] = replace(secret, revoked_at=secret.revoked_at or at)
        return self._secrets.get(secret_id)

    def add_key(self, key: ApiKey) -> bool:
        """See TenantStore."""
        self.check()
        if key.tenant_id not in self._tenants:
            message = f"no tenant {key.tenant_id}"
            raise TenantStoreError(message)
        return self._keys.setdefault(key.prefix, key) is key

    def keys(self, tenant_id: str | None = None) -> list[ApiKey]:
        """See TenantStore."""
        self.check()
        return [key for key in self._keys.values() if tenant_id in {None, key.tenant_id}]

    def revoke(self, prefix: str, at: datetime) -> bool:
        """See TenantStore."""
        self.check()
        key = self._keys.get(prefix)
        if key is None:
            return False
        self._keys[prefix] = replace(key, revoked_at=key.revoked_at or at)
        return True

    def replace_key(self, old_prefix: str, new: ApiKey, old_expires_at: datetime) -> bool:
        """See TenantStore."""
        if not self.add_key(new):
            return False
        old = self._keys[old_prefix]
        self._keys[old_prefix] = replace(old, expires_at=min(old.expires_at or old_expires_at, old_expires_at))
        return True

    def _change(self, tenant_id: str, **changes: object) -> bool:
        self.check()
        if tenant_id not in self._tenants:
            return False
        self._tenants[tenant_id] = replace(self._tenants[tenant_id], **changes)  # type: ignore[arg-type] # by name
        return True
