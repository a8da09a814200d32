"""Bringing a database up to date. One process at a time does it; the others wait and find it done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import text

from shared.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection, Engine

_LOCK_SECONDS: Final = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Migrations:
    """The steps of one database, in ``folder``. ``variable`` holds its address.

    Two that lie in the same PostgreSQL database must differ in ``version_table`` and in ``lock``, an advisory lock.
    """

    folder: Path
    variable: str
    version_table: str
    lock: int


def upgrade(engine: Engine, migrations: Migrations) -> None:
    """Run what is missing, in one transaction that writes from its start. Raises ConfigurationError for a newer one."""
    config = Config()
    config.set_main_option("script_location", str(migrations.folder).replace("%", "%%"))
    script = ScriptDirectory.from_config(config)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": migrations.version_table})
        if context.get_current_revision() == script.get_current_head():
            return
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            # However many rows there are to go through, and however long another process takes over them.
            connection.execute(text("SET LOCAL statement_timeout = 0"))
            connection.execute(text(f"SET LOCAL lock_timeout = '{_LOCK_SECONDS}s'"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": migrations.lock})
        _run(migrations, config, script, connection)


def _run(migrations: Migrations, config: Config, script: ScriptDirectory, connection: Connection) -> None:
    def steps(revision: Any, _context: MigrationContext) -> Any:  # noqa: ANN401 - alembic's own types are private
        return script._upgrade_revs("head", revision)  # noqa: SLF001 - what alembic's own upgrade command calls

    try:
        with EnvironmentContext(config, script, fn=steps, destination_rev="head") as environment:
            environment.configure(connection=connection, version_table=migrations.version_table)
            environment.run_migrations()
    except CommandError as exc:
        message = f"{migrations.variable}: the database is of another version of this software ({exc})"
        raise ConfigurationError(message) from exc
