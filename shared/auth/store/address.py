"""The address of the tenant store."""

from __future__ import annotations

from typing import Final

from shared.domain.errors import ConfigurationError
from shared.sql.address import sqlite_path

VARIABLE: Final = "ATELIER_TENANTS_URL"


def check_readable(url: str) -> None:
    """Raise ConfigurationError where a service could not even begin: a wrong address, or no file there."""
    path = sqlite_path(url, VARIABLE)
    if path is not None and not path.is_file():
        message = f"{VARIABLE}: there is no file {path}; `python -m services.gateway.admin migrate` makes it"
        raise ConfigurationError(message)
