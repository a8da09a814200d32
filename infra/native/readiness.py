"""Probes: a program is ready when it does its work for somebody, not when its process exists."""

from __future__ import annotations

import http.client
import socket
import struct
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import unquote, urlsplit

from shared.domain.errors import AtelierError

if TYPE_CHECKING:
    from collections.abc import Callable

# None when ready, else what is missing in a few words.
Probe: TypeAlias = "Callable[[], str | None]"

TIMEOUT_SECONDS: Final = 2.0
_FRAME_HEADER: Final = struct.Struct(">BHI")
_METHOD: Final = struct.Struct(">HH")
_START_OK: Final = (10, 11)
_TUNE: Final = (10, 30)
_TUNE_OK: Final = (10, 31)
_OPEN: Final = (10, 40)
_OPEN_OK: Final = (10, 41)


def tcp_probe(port: int) -> Probe:
    """Ready when the port accepts a connection."""

    def probe() -> str | None:
        try:
            socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS).close()
        except OSError as exc:
            return exc.strerror or str(exc)
        return None

    return probe


def http_probe(port: int, path: str) -> Probe:
    """Ready when a GET is answered with 200."""

    def probe() -> str | None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read(500).decode(errors="replace")
        except (OSError, http.client.HTTPException) as exc:
            return str(exc) or type(exc).__name__
        finally:
            connection.close()
        return None if answer.status == http.HTTPStatus.OK else f"{path} answers {answer.status} {body}"

    return probe


def redis_probe(port: int, password: str) -> Probe:
    """Ready when PING is answered after AUTH."""

    def probe() -> str | None:
        try:
            with socket.create_connection(("127.0.0.1", port), TIMEOUT_SECONDS) as connection:
                connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
                answer = connection.makefile("rb")
                lines = answer.readline().strip(), answer.readline().strip()
        except OSError as exc:
            return exc.strerror or str(exc)
        return None if lines == (b"+OK", b"+PONG") else f"answers {lines!r}"

    return probe


def amqp_probe(url: str) -> Probe:
    """Ready when the broker opens the virtual host for this user."""

    def probe() -> str | None:
        parts = urlsplit(url)
        try:
            with socket.create_connection((parts.hostname or "", parts.port or 5672), TIMEOUT_SECONDS) as connection:
                return _handshake(connection, parts.username or "", unquote(parts.password or ""), parts.path[1:])
        except (OSError, struct.error) as exc:
            return str(exc)

    return probe


def _handshake(connection: socket.socket, user: str, password: str, vhost: str) -> str | None:
    connection.sendall(b"AMQP\x00\x00\x09\x01")
    _receive(connection)
    response = f"\0{user}\0{password}".encode()
    client_properties = struct.pack(">I", 0)
    _send(
        connection,
        _START_OK,
        client_properties + _short("PLAIN") + struct.pack(">I", len(response)) + response + _short("en_US"),
    )
    if _receive(connection) != _TUNE:
        return f"the broker refuses {user}"
    _send(connection, _TUNE_OK, struct.pack(">HIH", 1, 131072, 0))
    _send(connection, _OPEN, _short(vhost) + _short("") + b"\0")
    return None if _receive(connection) == _OPEN_OK else f"the broker refuses {user} at {vhost}"


def _short(text: str) -> bytes:
    encoded = text.encode()
    return bytes([len(encoded)]) + encoded


def _send(connection: socket.socket, method: tuple[int, int], arguments: bytes) -> None:
    payload = _METHOD.pack(*method) + arguments
    connection.sendall(_FRAME_HEADER.pack(1, 0, len(payload)) + payload + b"\xce")


def _receive(connection: socket.socket) -> tuple[int, int]:
    _, _, size = _FRAME_HEADER.unpack(_exactly(connection, _FRAME_HEADER.size))
    payload = _exactly(connection, size + 1)
    class_id, method_id = _METHOD.unpack_from(payload)
    return class_id, method_id


def _exactly(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        piece = connection.recv(size - len(received))
        if not piece:
            message = "the broker closed the connection"
            raise ConnectionError(message)
        received += piece
    return received


def checked(check: Callable[[], object]) -> Probe:
    """Ready when a check of our own passes."""

    def probe() -> str | None:
        try:
            check()
        except AtelierError as exc:
            return exc.message
        return None

    return probe


def all_of(*probes: Probe) -> Probe:
    """Ready when every one of these is; asked in order, up to the first that is not."""

    def probe() -> str | None:
        return next((reason for reason in (each() for each in probes) if reason), None)

    return probe
