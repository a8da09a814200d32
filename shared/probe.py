"""``python -SI probe.py PATH PORT...``: whether this container's process answers 200, at the first port that is open.

PORT:FILE is a port that speaks TLS, and the certificates that are trusted of it. The standard library's smallest part
alone: every container asks every few seconds. Exit status 0 or 1.
"""

import socket
import sys
from collections.abc import Sequence

_SECONDS = 4.0
_MOST_BYTES = 2000


def problem(path: str, ports: Sequence[str]) -> str:
    """What is wrong in a few words; nothing when all is well."""
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
    for place in ports:
        port, _, ca_file = place.partition(":")
        try:
            connection = socket.create_connection(("127.0.0.1", int(port)), _SECONDS)
        except ConnectionRefusedError:
            continue
        if ca_file:
            connection = _over_tls(connection, ca_file)
        with connection:
            connection.sendall(request)
            answer = connection.makefile("rb").read(_MOST_BYTES).decode(errors="replace")
        first = answer.partition("\r\n")[0]
        return "" if first.split()[1:2] == ["200"] else f"{path} answers {first} {answer.rpartition(chr(10))[2]}"
    return f"nothing listens on {', '.join(ports)}"


def _over_tls(connection: socket.socket, ca_file: str) -> socket.socket:
    import ssl  # noqa: PLC0415 - half of what this takes otherwise

    return ssl.create_default_context(cafile=ca_file).wrap_socket(connection, server_hostname="localhost")


def main(arguments: Sequence[str]) -> int:
    """Print the problem, if there is one. Returns the exit status."""
    try:
        found = problem(arguments[0], arguments[1:])
    except OSError as exc:
        found = str(exc)
    sys.stdout.write(found)
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
