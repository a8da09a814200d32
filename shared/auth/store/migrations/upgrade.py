"""Bringing a database up to date. One process at a time does it; the others wait and find it done."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import text

from shared.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

_FOLDER: Final = Path(__file__).parent
# Any number that nothing else locks with in the same database.
_ADVISORY_LOCK: Final = 0x61746C74


def upgrade(engine: Engine) -> None:
    """Run what is missing, in one transaction that writes from its start. Raises ConfigurationError for a newer one."""
    config = Config()
    config.set_main_option("script_location", str(_FOLDER).replace("%", "%%"))
    script = ScriptDirectory.from_config(config)
    with engine.connect() as connection:
        if MigrationContext.configure(connection).get_current_revision() == script.get_current_head():
            return
    with engine.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _ADVISORY_LOCK})
        _run(config, script, connection)


def _run(config: Config, script: ScriptDirectory, connection: Connection) -> None:
    def steps(revision: Any, _context: MigrationContext) -> Any:  # noqa: ANN401 - alembic's own types are private
        return script._upgrade_revs("head", revision)  # noqa: SLF001 - what alembic's own upgrade command calls

    try:
        with EnvironmentContext(config, script, fn=steps, destination_rev="head") as environment:
            environment.configure(connection=connection)
            environment.run_migrations()
    except CommandError as exc:
        message = f"ATELIER_TENANTS_URL: the database is of another version of this software ({exc})"
        raise ConfigurationError(message) from exc
