"""Addresses of databases. No library is loaded: gunicorn's master checks them before gevent patches anything."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from shared.domain.errors import ConfigurationError

_SQLITE: Final = "sqlite:////"
_POSTGRESQL: Final = "postgresql"


def sqlite_path(url: str, variable: str) -> Path | None:
    """The file of a SQLite address; None for one of PostgreSQL.

    Raises ConfigurationError, which names the variable that holds the address, for anything else.
    """
    if url.startswith(_SQLITE):
        path = Path("/" + url.removeprefix(_SQLITE))
        if not path.parent.is_dir():
            message = f"{variable}: there is no folder {path.parent}"
            raise ConfigurationError(message)
        return path
    if not _is_postgresql(url):
        message = f"{variable} must be sqlite:////<absolute path> or postgresql://user:password@host/database"
        raise ConfigurationError(message)
    return None


def _is_postgresql(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme == _POSTGRESQL and parts.port != 0 and not parts.fragment and len(parts.path) > 1
    except ValueError:
        return False
