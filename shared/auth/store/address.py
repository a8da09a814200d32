"""Addresses of the tenant store. No library is loaded: gunicorn's master checks them before gevent patches anything."""

from __future__ import annotations

from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from shared.domain.errors import ConfigurationError

_VARIABLE: Final = "ATELIER_TENANTS_URL"
_SQLITE: Final = "sqlite:////"
_POSTGRESQL: Final = "postgresql"


def sqlite_path(url: str) -> Path | None:
    """The file of a SQLite address; None for one of PostgreSQL. Raises ConfigurationError for anything else."""
    if url.startswith(_SQLITE):
        path = Path("/" + url.removeprefix(_SQLITE))
        if not path.parent.is_dir():
            message = f"{_VARIABLE}: there is no folder {path.parent}"
            raise ConfigurationError(message)
        return path
    if not _is_postgresql(url):
        message = f"{_VARIABLE} must be sqlite:////<absolute path> or postgresql://user:password@host/database"
        raise ConfigurationError(message)
    return None


def check_readable(url: str) -> None:
    """Raise ConfigurationError where a service could not even begin: a wrong address, or no file there."""
    path = sqlite_path(url)
    if path is not None and not path.is_file():
        message = f"{_VARIABLE}: there is no file {path}; `python -m services.gateway.admin migrate` makes it"
        raise ConfigurationError(message)


def _is_postgresql(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme == _POSTGRESQL and parts.port != 0 and not parts.fragment and len(parts.path) > 1
    except ValueError:
        return False
