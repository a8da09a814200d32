"""Engines over the store of tenants: SQLite in WAL mode, or PostgreSQL through psycopg."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from sqlalchemy import NullPool, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from shared.auth.store.address import sqlite_path
from shared.domain.errors import ConfigurationError
from shared.sqlite import switch_to_wal

if TYPE_CHECKING:
    from pathlib import Path

    from sqlalchemy import URL, Connection, Engine
    from sqlalchemy.pool import ConnectionPoolEntry

# SQLite waits in its own code, where gevent cannot switch: every request of the process waits with it.
_SQLITE_READ_WAIT: Final = 0.2
_SQLITE_WRITE_WAIT: Final = 10.0
# A request waits for these, so each is as short as libpq allows.
_CONNECT_SECONDS: Final = 2
_POOL_SECONDS: Final = 2.0
_STATEMENT_MS: Final = 2000
_POOL_SIZE: Final = 4


def open_engine(url: str, *, read_only: bool) -> Engine:
    """An engine; no connection is made yet. Raises ConfigurationError for a useless address."""
    path = sqlite_path(url)
    if path is not None:
        return _sqlite_engine(path, read_only=read_only)
    try:
        return _postgresql_engine(make_url(url), read_only=read_only)
    except ArgumentError:
        message = "ATELIER_TENANTS_URL is not the address of a database"
        raise ConfigurationError(message) from None  # the cause shows the address, which may hold a password
    except ImportError as exc:
        message = "ATELIER_TENANTS_URL: PostgreSQL needs the extra `postgres` of this package"
        raise ConfigurationError(message) from exc


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


def _postgresql_engine(url: URL, *, read_only: bool) -> Engine:
    options = f"-c lock_timeout={_STATEMENT_MS}"
    if read_only:
        options = f"-c statement_timeout={_STATEMENT_MS} -c default_transaction_read_only=on"
    arguments: dict[str, Any] = {
        "connect_timeout": _CONNECT_SECONDS,
        # A peer that vanished without a word.
        "tcp_user_timeout": _STATEMENT_MS,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 2,
        "options": options,
    }
    return create_engine(
        url.set(drivername="postgresql+psycopg"),
        connect_args=arguments,
        pool_size=_POOL_SIZE,
        max_overflow=0,
        pool_timeout=_POOL_SECONDS,
        pool_pre_ping=True,  # else the first look-up after a restart of the server fails
    )
