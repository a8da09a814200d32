"""What every SQLite database here needs at its opening."""

from __future__ import annotations

import sqlite3
import time
from typing import Final

_PAUSE_SECONDS: Final = 0.01


def switch_to_wal(connection: sqlite3.Connection, wait_seconds: float) -> None:
    """Make it a database with a write-ahead log, if it is none yet. Raises sqlite3.OperationalError after the wait.

    Where several processes open a new database at once, all but one are refused at once: SQLite's busy timeout does not
    count here (https://sqlite.org/wal.html).
    """
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_PAUSE_SECONDS)
        else:
            return
