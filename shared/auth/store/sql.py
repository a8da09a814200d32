"""Tenants and keys in a SQL database, as the admin commands use it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, insert, literal, or_, select, update
from sqlalchemy.exc import IntegrityError

from shared.auth.store.engine import open_engine
from shared.auth.store.migrations.upgrade import upgrade
from shared.auth.store.reader import SqlKeyReader, key_from, secret_from, tenant_from, translated
from shared.auth.store.tables import API_KEYS, TENANTS, WEBHOOK_SECRETS, Moment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from sqlalchemy import Insert, Update

    from shared.auth.store.ports import ApiKey, Tenant, TenantState, WebhookSecret
    from shared.domain.task import EventType


class SqlTenantStore(SqlKeyReader):
    """A TenantStore over SQLAlchemy Core. Thread-safe."""

    def prepare(self) -> None:
        """See TenantStore. Raises ConfigurationError for a database that a newer version made."""
        with translated():
            upgrade(self._engine)

    def add_tenant(self, tenant: Tenant) -> bool:
        """See TenantStore."""
        values = {
            "id": tenant.id,
            "name": tenant.name,
            "plan": tenant.plan,
            "state": tenant.state.value,
            "created_at": tenant.created_at,
            "overrides": json.dumps(dict(tenant.overrides)),
            "callback_url": tenant.callback_url,
            "callback_events": _events(tenant.callback_events),
        }
        return self._inserted(insert(TENANTS).values(values), lambda: self.tenant(tenant.id) is not None)

    def tenant(self, tenant_id: str) -> Tenant | None:
        """See TenantStore."""
        with translated(), self._engine.connect() as connection:
            row = connection.execute(select(TENANTS).where(TENANTS.c.id == tenant_id)).mappings().one_or_none()
        return None if row is None else tenant_from(row)

    def set_plan(self, tenant_id: str, plan: str, overrides: Mapping[str, Any]) -> bool:
        """See TenantStore."""
        change = update(TENANTS).where(TENANTS.c.id == tenant_id)
        return self._changed(change.values(plan=plan, overrides=json.dumps(dict(overrides))))

    def set_state(self, tenant_id: str, state: TenantState) -> bool:
        """See TenantStore."""
        return self._changed(update(TENANTS).where(TENANTS.c.id == tenant_id).values(state=state.value))

    def set_callback(self, tenant_id: str, url: str | None, events: tuple[EventType, ...] | None) -> bool:
        """See TenantStore."""
        change = update(TENANTS).where(TENANTS.c.id == tenant_id)
        return self._changed(change.values(callback_url=url, callback_events=_events(events)))

    def add_webhook_secret(self, new: WebhookSecret, others_expire_at: datetime | None = None) -> bool:
        """See TenantStore."""
        table, changes = WEBHOOK_SECRETS, []
        if others_expire_at is not None:
            later = or_(table.c.expires_at.is_(None), table.c.expires_at > others_expire_at)
            others = update(table).where(table.c.tenant_id == new.tenant_id, table.c.id != new.id, later)
            changes.append(others.values(expires_at=others_expire_at))
        row = {column.name: getattr(new, column.name) for column in table.c}
        return self._inserted(insert(table).values(row), lambda: self._webhook_secret(new.id) is not None, *changes)

    def revoke_webhook_secret(self, secret_id: str, at: datetime) -> WebhookSecret | None:
        """See TenantStore."""
        table = WEBHOOK_SECRETS
        at_first = func.coalesce(table.c.revoked_at, literal(at, Moment))
        self._changed(update(table).where(table.c.id == secret_id).values(revoked_at=at_first))
        return self._webhook_secret(secret_id)

    def add_key(self, key: ApiKey) -> bool:
        """See TenantStore."""
        return self._inserted(insert(API_KEYS).values(asdict(key)), lambda: self.find(key.prefix) is not None)

    def keys(self, tenant_id: str | None = None) -> list[ApiKey]:
        """See TenantStore."""
        query = select(API_KEYS).order_by(API_KEYS.c.created_at, API_KEYS.c.prefix)
        if tenant_id is not None:
            query = query.where(API_KEYS.c.tenant_id == tenant_id)
        with translated(), self._engine.connect() as connection:
            return [key_from(row) for row in connection.execute(query).mappings()]

    def revoke(self, prefix: str, at: datetime) -> bool:
        """See TenantStore."""
        at_first = func.coalesce(API_KEYS.c.revoked_at, literal(at, Moment))
        return self._changed(update(API_KEYS).where(API_KEYS.c.prefix == prefix).values(revoked_at=at_first))

    def replace_key(self, old_prefix: str, new: ApiKey, old_expires_at: datetime) -> bool:
        """See TenantStore."""
        later = or_(API_KEYS.c.expires_at.is_(None), API_KEYS.c.expires_at > old_expires_at)
        shorten = update(API_KEYS).where(API_KEYS.c.prefix == old_prefix, later).values(expires_at=old_expires_at)
        return self._inserted(insert(API_KEYS).values(asdict(new)), lambda: self.find(new.prefix) is not None, shorten)

    def _webhook_secret(self, secret_id: str) -> WebhookSecret | None:
        query = select(WEBHOOK_SECRETS).where(WEBHOOK_SECRETS.c.id == secret_id)
        with translated(), self._engine.connect() as connection:
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else secret_from(row)

    def _changed(self, change: Update) -> bool:
        with translated(), self._engine.begin() as connection:
            return connection.execute(change).rowcount > 0

    def _inserted(self, new: Insert, is_taken: Callable[[], bool], *changes: Update) -> bool:
        with translated():
            try:
                with self._engine.begin() as connection:
                    for statement in (new, *changes):
                        connection.execute(statement)
            except IntegrityError:
                if is_taken():
                    return False
                raise
        return True


def _events(events: tuple[EventType, ...] | None) -> str | None:
    return None if events is None else json.dumps(events)


def open_store(url: str) -> SqlTenantStore:
    """The store as admin commands use it, up to date. Raises ConfigurationError, TenantStoreError."""
    store = SqlTenantStore(open_engine(url, read_only=False))
    store.prepare()
    return store
