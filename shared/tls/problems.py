"""What went wrong with TLS, in words that say where to look. Libraries bury it in errors of their own."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_KEPT_IN: Final = ("__cause__", "__context__", "args", "kwargs", "exception", "exceptions", "orig", "reason")
_NOT_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"})
# libpq has its own TLS and tells of it in text alone.
_OF_POSTGRESQL: Final = {
    "certificate verify failed": "its certificate is not trusted",
    "does not match host name": "its certificate is for another name",
    "server does not support SSL": "it does not speak TLS",
    "no encryption": "it speaks TLS alone; ATELIER_CA_FILE switches TLS on",
}


def tls_problem(error: BaseException) -> str | None:
    """The trouble with TLS that an error was raised for; None for one with another reason."""
    for each in _within(error):
        if isinstance(each, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted: {each.verify_message.rstrip('.')} (see ATELIER_CA_FILE)"
        if type(each).__name__ == "CertificateError":  # urllib3 looks at the name by itself
            return f"its certificate is for another name: {each}"
        if isinstance(each, ssl.SSLError):
            if each.reason in _NOT_TLS:
                return "it does not speak TLS"
            return f"TLS failed: {each.reason or type(each).__name__}"
        if type(each).__module__.startswith("psycopg"):
            return next((problem for sign, problem in _OF_POSTGRESQL.items() if sign in str(each)), None)
    return None


def named(variable: str, error: BaseException, text: str) -> str:
    """What to tell of an error: where TLS is its reason, so, with the variable that names the server."""
    problem = tls_problem(error)
    return text if problem is None else f"{variable}: {problem}"


def _within(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it was raised for, wherever libraries keep them."""
    waiting: list[object] = [error]
    seen: set[int] = set()
    while waiting:
        each = waiting.pop()
        if isinstance(each, list | tuple):
            waiting.extend(each)
        elif isinstance(each, dict):
            waiting.extend(each.values())
        elif isinstance(each, BaseException) and id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting.extend(getattr(each, name, None) for name in _KEPT_IN)
