"""Engines over the store of tenants: SQLite in WAL mode, or PostgreSQL through psycopg."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from sqlalchemy import NullPool, create_engine, event

from shared.auth.store.address import VARIABLE
from shared.sql.address import sqlite_path
from shared.sql.postgresql import postgresql_engine
from shared.sql.wal import switch_to_wal

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import Connection, Engine
    from sqlalchemy.pool import ConnectionPoolEntry

# SQLite waits in its own code, where gevent cannot switch: every request of the process waits with it.
_SQLITE_READ_WAIT: Final = 0.2
_SQLITE_WRITE_WAIT: Final = 10.0
_STATEMENT_MS: Final = 2000
_POOL_SIZE: Final = 4


def open_engine(url: str, *, read_only: bool) -> Engine:
    """An engine; no connection is made yet. Raises ConfigurationError for a useless address."""
    path = sqlite_path(url, VARIABLE)
    if path is not None:
        return _sqlite_engine(path, read_only=read_only)
    settings: dict[str, object] = {"lock_timeout": _STATEMENT_MS}
    if read_only:
        settings = {"statement_timeout": _STATEMENT_MS, "default_transaction_read_only": "on"}
    return postgresql_engine(url, VARIABLE, connections=_POOL_SIZE, settings=settings)


def _sqlite_engine(path: Path, *, read_only: bool) -> Engine:
    wait = _SQLITE_READ_WAIT if read_only else _SQLITE_WRITE_WAIT
    uri = f"file:{quote(str(path))}?mode={'ro' if read_only else 'rwc'}"

    def connect() -> sqlite3.Connection:
        # Transactions are begun below: sqlite3 itself would do so too late.
        return sqlite3.connect(uri, uri=True, timeout=wait, isolation_level=None, check_same_thread=False)

    # Opened for each look-up (0.2 ms): a connection that is kept would go on to read a file that was replaced.
    engine = create_engine("sqlite://", creator=connect, poolclass=NullPool)
    if not read_only:
        event.listen(engine, "connect", _make_wal)

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    event.listen(engine, "begin", begin)
    return engine


def _make_wal(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
    switch_to_wal(connection, _SQLITE_WRITE_WAIT)
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
