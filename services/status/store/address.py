"""The address of the status database."""

from __future__ import annotations

from typing import Final

from shared.sql.address import sqlite_path

VARIABLE: Final = "ATELIER_DATABASE_URL"


def check_address(url: str) -> None:
    """Raise ConfigurationError for an address that no process could use."""
    sqlite_path(url, VARIABLE)
