"""The engine over the status database: SQLite in WAL mode, or PostgreSQL through psycopg.

Write transactions come one after the other, whoever begins them: what one reads stays true until it commits, and
positions become visible in their order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlalchemy import create_engine, event

from services.status.store.address import VARIABLE
from shared.sql.address import sqlite_path
from shared.sql.postgresql import postgresql_engine
from shared.sql.wal import switch_to_wal

if TYPE_CHECKING:
    from pathlib import Path
    from sqlite3 import Connection as SqliteConnection

    from sqlalchemy import Connection, Engine
    from sqlalchemy.pool import ConnectionPoolEntry

# The execution option of a connection that writes.
WRITES: Final = "atelier_writes"
# Any number that nothing else locks with in the same database.
ADVISORY_LOCK: Final = 0x61746C73
_BUSY_MS: Final = 5000
_CONNECTIONS: Final = 8
_POSTGRESQL: Final = {
    "statement_timeout": 10_000,
    "lock_timeout": _BUSY_MS,
    # Who holds the lock of the writers and is stopped, or is cut off with its machine, must not hold it for ever.
    "idle_in_transaction_session_timeout": 30_000,
    "tcp_keepalives_idle": 5,
    "tcp_keepalives_interval": 2,
    "tcp_keepalives_count": 3,
}


def open_engine(url: str) -> Engine:
    """An engine; no connection is made yet. Raises ConfigurationError for a useless address."""
    path = sqlite_path(url, VARIABLE)
    if path is not None:
        return _sqlite_engine(path)
    engine = postgresql_engine(url, VARIABLE, connections=_CONNECTIONS, settings=_POSTGRESQL)
    event.listen(engine, "begin", _begin_on_postgresql)
    return engine


def writing(engine: Engine) -> Engine:
    """The same engine for transactions that write."""
    return engine.execution_options(**{WRITES: True})


def _sqlite_engine(path: Path) -> Engine:
    engine = create_engine(f"sqlite:///{path}")
    event.listen(engine, "connect", _on_sqlite_connect)
    event.listen(engine, "begin", _begin_on_sqlite)
    return engine


def _on_sqlite_connect(connection: SqliteConnection, _entry: ConnectionPoolEntry) -> None:
    connection.isolation_level = None  # _begin_on_sqlite begins transactions, sqlite3 would do so too late
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
    switch_to_wal(connection, _BUSY_MS / 1000)
    # A crash of the machine may lose the last transactions and corrupts nothing: the view follows with the next event.
    connection.execute("PRAGMA synchronous = NORMAL")


def _begin_on_sqlite(connection: Connection) -> None:
    # A transaction that reads first and then wants to write is refused at once when another has written in between,
    # however long the busy timeout; one that says so at its start waits.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if _writes(connection) else "BEGIN")


def _begin_on_postgresql(connection: Connection) -> None:
    if _writes(connection):
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})")


def _writes(connection: Connection) -> bool:
    return bool(connection.get_execution_options().get(WRITES, False))
