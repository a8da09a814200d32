"""HTTPS of a web server, for its gunicorn configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.tls.contexts import server_context

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from gunicorn.arbiter import Arbiter
    from gunicorn.config import Config

    from shared.config import ServerSettings


def use_certificate(server: Arbiter, settings: ServerSettings) -> None:
    """Have the worker processes to come speak HTTPS, where a certificate is set."""
    if settings.tls_certificate_file is not None:
        server.cfg.set("certfile", str(settings.tls_certificate_file))
        server.cfg.set("keyfile", str(settings.tls_key_file))


def context_of(conf: Config, _default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """Gunicorn's ``ssl_context``: asked in each worker process, after gevent has patched."""
    return server_context(conf.certfile, conf.keyfile)
