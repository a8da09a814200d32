"""Addresses of servers: what of TLS they may say, and the file of trusted certificates that completes them.

An address says by its scheme whether its hop is encrypted; what is encrypted is always verified, the server's name with
it. So an address may name certificates, and nothing that would weaken their verification.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

if TYPE_CHECKING:
    from pathlib import Path

# What the address of a broker calls its file (https://www.rabbitmq.com/docs/uri-query-parameters).
AMQP_CA: Final = "cacertfile"
REDIS_CA: Final = "ssl_ca_certs"
_POSTGRESQL_CA: Final = "sslrootcert"
_POSTGRESQL_OPTIONS: Final = frozenset({"sslmode", _POSTGRESQL_CA, "sslcert", "sslkey"})
# libpq's word for the certificates that the system trusts.
_SYSTEM: Final = "system"


def amqp_address(url: str, ca_file: Path | None) -> str:
    """The address of the broker with the file of whom to trust. Raises ValueError for one that says more of TLS."""
    options = _options(url)
    _refuse({name for name in options if name == "ssl_options"})
    return _completed(url, AMQP_CA, ca_file) if _scheme(url) == "amqps" else url


def split_amqp_address(url: str) -> tuple[str, str | None]:
    """The address as the client library wants it, and the file."""
    parts = urlsplit(url)
    pairs = parse_qsl(parts.query, keep_blank_values=True)
    others = urlencode([pair for pair in pairs if pair[0] != AMQP_CA])
    return urlunsplit(parts._replace(query=others)), dict(pairs).get(AMQP_CA)


def redis_address(url: str, ca_file: Path | None) -> str:
    """The address of Redis with the file of whom to trust. Raises ValueError for one that says more of TLS."""
    options = _options(url)
    _refuse({name for name in options if name.startswith("ssl") and name != REDIS_CA})
    return _completed(url, REDIS_CA, ca_file) if _scheme(url) == "rediss" else url


def postgresql_address(url: str, ca_file: Path | None) -> str:
    """The address of a database with its ``sslmode``; one of another kind as it is.

    Without a word in the address, TLS is spoken where there is a file of whom to trust. Raises ValueError for a mode
    that encrypts and does not verify.
    """
    if not _scheme(url).startswith("postgresql"):
        return url
    options = _options(url)
    _refuse({name for name in options if name.startswith("ssl") and name not in _POSTGRESQL_OPTIONS})
    trusts = ca_file is not None or _POSTGRESQL_CA in options
    mode = options.get("sslmode", "verify-full" if trusts else "disable")
    if mode not in {"disable", "verify-full"}:
        message = "sslmode must be verify-full, or disable where the way to the server needs no TLS"
        raise ValueError(message)
    if "sslmode" not in options:
        url = _with(url, "sslmode", mode)
    if mode == "disable":
        return url
    return _completed(url, _POSTGRESQL_CA, _SYSTEM if ca_file is None else ca_file)


def _completed(url: str, option: str, ca_file: Path | str | None) -> str:
    """With this file, unless it names one itself."""
    return url if ca_file is None or option in _options(url) else _with(url, option, str(ca_file))


def _with(url: str, option: str, value: str) -> str:
    return f"{url}{'&' if '?' in url else '?'}{option}={quote(value, safe='/')}"


def _refuse(options: set[str]) -> None:
    if options:
        message = f"{', '.join(sorted(options))}: certificates are always verified; ATELIER_CA_FILE says whom to trust"
        raise ValueError(message)


def _scheme(url: str) -> str:
    return url.partition("://")[0].lower()


def _options(url: str) -> dict[str, str]:
    try:
        return dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))
    except ValueError:
        return {}  # whoever uses the address says what is wrong with it
