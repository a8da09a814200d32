"""Clients of Redis, over TLS where the address says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, urlsplit

import redis
from redis.backoff import NoBackoff
from redis.connection import SSLConnection
from redis.retry import Retry

from shared.tls.addresses import REDIS_CA
from shared.tls.contexts import client_context
from shared.tls.problems import named

if TYPE_CHECKING:
    import socket
    import ssl

_VARIABLE: Final = "ATELIER_REDIS_URL"
# More requests than that at once in one process are decided on without Redis.
_MOST_CONNECTIONS: Final = 1024


class _VerifiedConnection(SSLConnection):
    """The library would trust the system's certificates as well, and read them all for every connection."""

    def __init__(self, *, context: ssl.SSLContext, **options: Any) -> None:  # noqa: ANN401 - the library's own
        super().__init__(**options)
        self._context = context

    def _wrap_socket_with_ssl(self, sock: socket.socket) -> ssl.SSLSocket:
        return self._context.wrap_socket(sock, server_hostname=self.host)


def connect(url: str, timeout: float) -> redis.Redis:
    """A client whose every call ends within about ``timeout`` seconds, without tries of its own."""
    parts = urlsplit(url)
    options: dict[str, Any] = {}
    if parts.scheme == "rediss":
        ca_file = parse_qs(parts.query).get(REDIS_CA, [None])[0]
        options = {"connection_class": _VerifiedConnection, "context": client_context(ca_file)}
    pool = redis.ConnectionPool.from_url(
        url,
        max_connections=_MOST_CONNECTIONS,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        retry=Retry(NoBackoff(), 0),
        decode_responses=True,
        **options,
    )
    return redis.Redis(connection_pool=pool)


def redis_failure(error: redis.RedisError) -> str:
    """What went wrong, for the log."""
    text = f"{type(error).__name__}: {error}"
    about_the_server = isinstance(error, redis.ConnectionError | redis.TimeoutError)
    return named(_VARIABLE, error, f"{_VARIABLE}: {text}" if about_the_server else text)
