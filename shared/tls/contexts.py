"""How both ends of a connection speak TLS: version 1.2 or later, and certificates verified with the server's name."""

from __future__ import annotations

# Names are looked up in the module at each call: where gevent patches it later, they are gevent's then. A name that was
# imported before would be the blocking one, and recurse without end in its setters.
import ssl
from typing import TYPE_CHECKING

from shared.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path


def client_context(ca_file: Path | str | None) -> ssl.SSLContext:
    """Trusts the certificates in a file alone, or those that the system trusts.

    Raises ConfigurationError for a file that cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError as exc:
        message = f"{ca_file} holds no certificates"
        raise ConfigurationError(message) from exc
    except OSError as exc:
        message = f"{ca_file}: {exc.strerror}"
        raise ConfigurationError(message) from exc
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def server_context(certificate: Path | str, key: Path | str) -> ssl.SSLContext:
    """Shows a certificate, with those that lead to its CA behind it. Raises ConfigurationError for useless files."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as exc:
        message = "ATELIER_TLS_CERTIFICATE_FILE, ATELIER_TLS_KEY_FILE: no certificate in PEM form and the key to it"
        raise ConfigurationError(message) from exc
    except OSError as exc:
        message = f"ATELIER_TLS_CERTIFICATE_FILE, ATELIER_TLS_KEY_FILE: {exc.strerror}"
        raise ConfigurationError(message) from exc
    return context
