"""Bringing a store of tenants up to date."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from shared.auth.store.address import VARIABLE
from shared.sql import migrations

if TYPE_CHECKING:
    from sqlalchemy import Engine

_MIGRATIONS: Final = migrations.Migrations(
    folder=Path(__file__).parent, variable=VARIABLE, version_table="alembic_version", lock=0x61746C74
)


def upgrade(engine: Engine) -> None:
    """See shared.sql.migrations."""
    migrations.upgrade(engine, _MIGRATIONS)
