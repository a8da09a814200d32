"""Bringing a status database up to date."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from services.status.store.address import VARIABLE
from services.status.store.engine import ADVISORY_LOCK, writing
from shared.sql import migrations

if TYPE_CHECKING:
    from sqlalchemy import Engine

_MIGRATIONS: Final = migrations.Migrations(
    folder=Path(__file__).parent, variable=VARIABLE, version_table="status_version", lock=ADVISORY_LOCK
)


def upgrade(engine: Engine) -> None:
    """See shared.sql.migrations."""
    # PostgreSQL's lock of the writers is taken there, with the patience that a migration needs.
    migrations.upgrade(engine if engine.dialect.name == "postgresql" else writing(engine), _MIGRATIONS)
