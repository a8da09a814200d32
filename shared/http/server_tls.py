"""HTTPS of a web server, for its gunicorn configuration."""

from __future__ import annotations

import errno
import ssl
from typing import TYPE_CHECKING, Any, Final

from shared.logging import get_logger
from shared.tls.contexts import server_context

if TYPE_CHECKING:
    from collections.abc import Callable

    from gunicorn.arbiter import Arbiter
    from gunicorn.config import Config

    from shared.config import ServerSettings

log = get_logger(__name__)
# A client that says nothing takes one of the server's places for so long.
_HANDSHAKE_SECONDS: Final = 10.0


def use_certificate(server: Arbiter, settings: ServerSettings) -> None:
    """Have the worker processes to come speak HTTPS, where a certificate is set."""
    if settings.tls_certificate_file is not None:
        server.cfg.set("certfile", str(settings.tls_certificate_file))
        server.cfg.set("keyfile", str(settings.tls_key_file))


def context_of(conf: Config, _default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """Gunicorn's ``ssl_context``: asked in each worker process, after gevent has patched."""
    context = server_context(conf.certfile, conf.keyfile)
    context.sslsocket_class = _late_socket()
    return context


def _late_socket() -> type[ssl.SSLSocket]:
    """A socket whose handshake gunicorn begins, which bears its failure.

    Gevent's server would shake hands before it calls gunicorn, and print a stack for each client that fails.
    """

    class LateSocket(ssl.SSLSocket):  # gevent's, by now
        def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - as the class above has them
            super().__init__(*args, **{**options, "do_handshake_on_connect": False})

        def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002, ARG002 - as above
            self.settimeout(_HANDSHAKE_SECONDS)
            try:
                super().do_handshake()
            except OSError as exc:
                log.info("tls_handshake_failed", error_message=f"{type(exc).__name__}: {exc}")
                raise ConnectionResetError(errno.ECONNRESET, "no handshake") from exc
            self.settimeout(None)

    return LateSocket
