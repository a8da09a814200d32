"""Tenants and keys in a SQL database, as the admin commands use it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, insert, literal, or_, select, update
from sqlalchemy.exc import IntegrityError

from shared.auth.store.engine import open_engine
from shared.auth.store.migrations.upgrade import upgrade
from shared.auth.store.reader import SqlKeyReader, key_from, tenant_from, translated
from shared.auth.store.tables import API_KEYS, TENANTS, Moment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from sqlalchemy import Insert, Update

    from shared.auth.store.ports import ApiKey, Tenant, TenantState


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


def open_store(url: str) -> SqlTenantStore:
    """The store as admin commands use it, up to date. Raises ConfigurationError, TenantStoreError."""
    store = SqlTenantStore(open_engine(url, read_only=False))
    store.prepare()
    return store
