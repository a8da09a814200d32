"""Reading keys from a SQL database: all that services do with it."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from shared.auth.errors import TenantStoreError
from shared.auth.store.address import VARIABLE
from shared.auth.store.engine import open_engine
from shared.auth.store.ports import ApiKey, Tenant, TenantState, WebhookSecret
from shared.auth.store.tables import API_KEYS, TENANTS, WEBHOOK_SECRETS
from shared.domain.task import EventType
from shared.tls.problems import named

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy import Engine


class SqlKeyReader:
    """A KeyReader over SQLAlchemy Core. Thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def find(self, prefix: str) -> tuple[ApiKey, Tenant] | None:
        """See KeyReader."""
        query = (
            select(API_KEYS, *(column.label(f"tenant_{column.name}_") for column in TENANTS.c))
            .join(TENANTS, TENANTS.c.id == API_KEYS.c.tenant_id)
            .where(API_KEYS.c.prefix == prefix)
        )
        with translated(), self._engine.connect() as connection:
            row = connection.execute(query).mappings().one_or_none()
        if row is None:
            return None
        return key_from(row), tenant_from({column.name: row[f"tenant_{column.name}_"] for column in TENANTS.c})

    def tenants(self) -> list[Tenant]:
        """See KeyReader."""
        with translated(), self._engine.connect() as connection:
            return [tenant_from(row) for row in connection.execute(select(TENANTS).order_by(TENANTS.c.id)).mappings()]

    def webhook_secrets(self, tenant_id: str) -> list[WebhookSecret]:
        """See KeyReader."""
        query = select(WEBHOOK_SECRETS).where(WEBHOOK_SECRETS.c.tenant_id == tenant_id)
        query = query.order_by(WEBHOOK_SECRETS.c.created_at.desc(), WEBHOOK_SECRETS.c.id)
        with translated(), self._engine.connect() as connection:
            return [secret_from(row) for row in connection.execute(query).mappings()]

    def check(self) -> None:
        """See KeyReader."""
        with translated(), self._engine.connect() as connection:
            connection.execute(select(API_KEYS.c.prefix).limit(1))

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


def open_reader(url: str) -> SqlKeyReader:
    """The store as services use it, read-only. Raises ConfigurationError for a useless address."""
    return SqlKeyReader(open_engine(url, read_only=True))


def key_from(row: Mapping[Any, Any]) -> ApiKey:
    """A row as a key."""
    return ApiKey(**{column.name: row[column.name] for column in API_KEYS.c})


def secret_from(row: Mapping[Any, Any]) -> WebhookSecret:
    """A row as a secret."""
    return WebhookSecret(**{column.name: row[column.name] for column in WEBHOOK_SECRETS.c})


def tenant_from(row: Mapping[Any, Any]) -> Tenant:
    """A row as a tenant. Raises TenantStoreError."""
    try:
        values = {**row, "state": TenantState(row["state"]), "overrides": json.loads(row["overrides"])}
        if row["callback_events"] is not None:
            values["callback_events"] = tuple(map(EventType, json.loads(row["callback_events"])))
        return Tenant(**values)
    except (ValueError, TypeError) as exc:
        message = f"the record of tenant {row['id']} cannot be read"
        raise TenantStoreError(message) from exc


@contextmanager
def translated() -> Iterator[None]:
    """Whatever SQLAlchemy raises becomes a TenantStoreError."""
    try:
        yield
    except SQLAlchemyError as exc:
        reason = named(VARIABLE, exc, f"{type(exc).__name__}: {getattr(exc, 'orig', None)}")
        message = f"the store of tenants failed: {reason}"
        raise TenantStoreError(message) from exc
