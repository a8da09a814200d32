"""The tables of tenants and keys, as the newest migration leaves them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from sqlalchemy import BigInteger, Column, ForeignKey, MetaData, String, Table, Text
from sqlalchemy.types import TypeDecorator

if TYPE_CHECKING:
    from sqlalchemy import Dialect

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class Moment(TypeDecorator[datetime]):
    """An aware time as microseconds since 1970: the same in every database, and in order."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, _dialect: Dialect) -> int | None:
        """Into the database."""
        return None if value is None else (value - _EPOCH) // _MICROSECOND

    def process_result_value(self, value: int | None, _dialect: Dialect) -> datetime | None:
        """Out of the database."""
        return None if value is None else _EPOCH + value * _MICROSECOND


METADATA: Final = MetaData()
TENANTS: Final = Table(
    "tenants",
    METADATA,
    Column("id", String(63), primary_key=True),
    Column("name", Text, nullable=False),
    Column("plan", String(63), nullable=False),
    Column("state", String(16), nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("overrides", Text, nullable=False),
    Column("callback_url", Text, nullable=True),
    Column("callback_events", Text, nullable=True),
)
API_KEYS: Final = Table(
    "api_keys",
    METADATA,
    Column("prefix", String(8), primary_key=True),
    Column("hash", String(64), nullable=False),
    Column("tenant_id", String(63), ForeignKey("tenants.id"), nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment, nullable=True),
    Column("revoked_at", Moment, nullable=True),
)
WEBHOOK_SECRETS: Final = Table(
    "webhook_secrets",
    METADATA,
    Column("id", String(8), primary_key=True),
    Column("tenant_id", String(63), ForeignKey("tenants.id"), nullable=False, index=True),
    Column("text", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("expires_at", Moment, nullable=True),
    Column("revoked_at", Moment, nullable=True),
)
