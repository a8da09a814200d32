"""Engines over PostgreSQL, through psycopg."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import ArgumentError

from shared.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import Engine

# A request waits for these, so each is as short as libpq allows.
_CONNECT_SECONDS: Final = 2
_POOL_SECONDS: Final = 2.0
_SILENCE_MS: Final = 2000


def postgresql_engine(url: str, variable: str, *, connections: int, settings: Mapping[str, object]) -> Engine:
    """An engine with so many connections under the server's ``settings``; none is made yet.

    Raises ConfigurationError, which names the variable that holds the address, when it is useless.
    """
    arguments: dict[str, Any] = {
        "connect_timeout": _CONNECT_SECONDS,
        # A peer that vanished without a word.
        "tcp_user_timeout": _SILENCE_MS,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 2,
        "options": " ".join(f"-c {name}={value}" for name, value in settings.items()),
    }
    try:
        return create_engine(
            make_url(url).set(drivername="postgresql+psycopg"),
            connect_args=arguments,
            pool_size=connections,
            max_overflow=0,
            pool_timeout=_POOL_SECONDS,
            pool_pre_ping=True,  # else the first use after a restart of the server fails
        )
    except ArgumentError:
        message = f"{variable} is not the address of a database"
        raise ConfigurationError(message) from None  # the cause shows the address, which may hold a password
    except ImportError as exc:
        message = f"{variable}: PostgreSQL needs the extra `postgres` of this package"
        raise ConfigurationError(message) from exc
