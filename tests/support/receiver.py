"""A server that is called back, or that a client's URL leads to: it keeps what it gets, and behaves as it is told."""

from __future__ import annotations

import contextlib
import socket
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from standardwebhooks import Webhook, WebhookVerificationError

from tests.support.ports import LOOPBACK

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from typing import Self

    Behaviour = Callable[[socket.socket, "Received"], None]

_PIECE: Final = b"x" * 65536


@dataclass(frozen=True, slots=True)
class Received:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def webhook_id(self) -> str:
        return self.headers["webhook-id"]

    def verifies(self, secret: str) -> bool:
        """Whether the library that receivers use takes it for genuine."""
        try:
            Webhook(secret).verify(self.body, self.headers)
        except WebhookVerificationError:
            return False
        return True


def answer(status: int = 200, *, body: bytes = b"", **headers: str) -> Behaviour:
    """Answer at once. ``retry_after`` is the field Retry-After."""
    fields = {"Content-Length": str(len(body)), **{name.replace("_", "-"): value for name, value in headers.items()}}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())

    def behave(connection: socket.socket, _received: Received) -> None:
        connection.sendall(f"HTTP/1.1 {status} X\r\n{head}\r\n".encode() + body)

    return behave


def silent(connection: socket.socket, _received: Received) -> None:
    """Never answer; returns when the caller has given up."""
    connection.recv(1)


def drip(text: bytes, *, first: bytes = b"") -> Behaviour:
    """Send some bytes at once, and then one every while, again and again."""

    def behave(connection: socket.socket, _received: Received) -> None:
        connection.sendall(first)
        connection.settimeout(0.02)
        while True:
            for byte in text:
                connection.sendall(bytes([byte]))
                with contextlib.suppress(TimeoutError):
                    if not connection.recv(1):
                        return

    return behave


def flood(head: bytes, pieces: int, piece: bytes = _PIECE) -> Behaviour:
    """A head, and so many pieces, for as long as anybody reads."""

    def behave(connection: socket.socket, _received: Received) -> None:
        connection.sendall(head)
        for _ in range(pieces):
            connection.sendall(piece)

    return behave


class Receiver:
    """Serves each connection once, in a thread of its own. The last of ``behaviours`` is that of all later ones."""

    def __init__(
        self, *behaviours: Behaviour, host: str = LOOPBACK, port: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        self._first = list(behaviours[:-1])
        self.last: Behaviour = behaviours[-1] if behaviours else answer()
        self._tls = tls
        self._lock = threading.Lock()
        self.received: list[Received] = []
        self.connections = 0
        self._listener = socket.create_server((host, port), backlog=512)
        self.host, self.port = self._listener.getsockname()
        self.url = f"{'https' if tls else 'http'}://{host}:{self.port}"
        threading.Thread(target=self._serve, name="receiver", daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # Closing alone would not wake the thread that waits in accept.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def ids(self) -> list[str]:
        """The webhook-id of every request, in order."""
        return [each.webhook_id for each in self.received]

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(connection,), name="received", daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        with self._lock:
            self.connections += 1
        with contextlib.suppress(OSError), connection:
            secured = connection if self._tls is None else self._tls.wrap_socket(connection, server_side=True)
            with secured:
                received = _read(secured)
                if received is None:
                    return
                with self._lock:
                    self.received.append(received)
                    behave = self._first.pop(0) if self._first else self.last
                behave(secured, received)


def _read(connection: socket.socket) -> Received | None:
    with connection.makefile("rb") as lines:
        request = lines.readline().decode().split(" ")
        if len(request) < 2:
            return None
        headers = {}
        while (line := lines.readline().decode().strip()) != "":
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        return Received(request[1], headers, lines.read(int(headers.get("content-length", "0"))))
