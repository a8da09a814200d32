"""The SQLite engine: WAL, so that readers and the one writer do not wait for each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from sqlalchemy import create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from shared.domain.errors import ConfigurationError
from shared.sqlite import switch_to_wal

if TYPE_CHECKING:
    from sqlite3 import Connection as SqliteConnection

    from sqlalchemy import Connection, Engine
    from sqlalchemy.pool import ConnectionPoolEntry

WRITES: Final = "atelier_writes"
_BUSY_MS: Final = 5000


def sqlite_engine(url: str) -> Engine:
    """An engine over one database file; no connection is made yet. Raises ConfigurationError for a useless address."""
    try:
        database = make_url(url)
    except ArgumentError as exc:
        message = "ATELIER_DATABASE_URL is not the address of a database"
        raise ConfigurationError(message) from exc
    if database.get_backend_name() != "sqlite" or not Path(database.database or "").is_absolute():
        message = "ATELIER_DATABASE_URL must be sqlite:////<absolute path>"
        raise ConfigurationError(message)
    folder = Path(database.database or "").parent
    if not folder.is_dir():
        message = f"ATELIER_DATABASE_URL: there is no folder {folder}"
        raise ConfigurationError(message)
    engine = create_engine(database)
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    return engine


def _on_connect(connection: SqliteConnection, _entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # _on_begin begins transactions, sqlite3 would do so too late
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
    switch_to_wal(connection, _BUSY_MS / 1000)
    # A crash of the machine may lose the last transactions and corrupts nothing: the view follows with the next event.
    connection.execute("PRAGMA synchronous = NORMAL")


def _on_begin(connection: Connection) -> None:
    # A transaction that reads first and then wants to write is refused at once when another has written in between,
    # however long the busy timeout; one that says so at its start waits.
    writes = connection.get_execution_options().get(WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
