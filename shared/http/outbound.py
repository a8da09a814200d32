"""HTTP requests to servers that clients name. Nobody gets the service to reach what is not public.

A name is resolved once, every address that it has is checked, and the connection is made to a checked one; TLS and the
Host header keep the name. Redirects are answers like others, proxies are not asked, and one deadline covers it all.
"""

from __future__ import annotations

import http.client
import io
import queue
import socket
import ssl
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from shared.domain.errors import (
    AddressRefusedError,
    ConnectionFailedError,
    InvalidAnswerError,
    NameUnresolvedError,
    OutboundError,
    OutboundTimeoutError,
)
from shared.domain.outbound import OutboundPolicy, Target, literal_address, parse_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from shared.domain.outbound import Address

_READ_BYTES: Final = 16384
_HEAD_BYTES: Final = 65536
# A name may have many addresses; when so many do not answer, the server is away.
_MOST_ADDRESSES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Seconds: for the connection, and for everything from the name to the last byte."""

    connect: float = 5.0
    whole: float = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundRequest:
    """What to send. No more than ``most_bytes`` of the answer's body are read."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    most_bytes: int = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundAnswer:
    """What came back. ``complete``: the whole body is here; else it was too long, too slow or cut off."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    complete: bool


def resolve(name: str) -> Sequence[str]:
    """The system's word on a name. It has no time limit."""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return [str(address[4][0]) for address in found]


class Outbound:
    """Sends requests. Thread-safe; every request has a connection of its own."""

    def __init__(
        self,
        policy: OutboundPolicy,
        patience: Patience | None = None,
        *,
        resolver: Callable[[str], Sequence[str]] = resolve,
        tls: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy = policy
        self._patience = patience or Patience()
        self._resolver = resolver
        self._tls = tls or ssl.create_default_context()
        self._clock = clock

    def send(self, request: OutboundRequest) -> OutboundAnswer:
        """The answer, as soon as its head is here. Raises OutboundError when there is none."""
        deadline = _Deadline(self._patience.whole, self._clock)
        target = parse_url(request.url, self._policy)
        addresses = self._checked(self._addresses(target.host, deadline))
        with _translated():
            connection = self._connect(addresses, target, deadline)
        with connection, _translated():
            return _exchange(_Wire(connection, deadline, _HEAD_BYTES + 2 * request.most_bytes), request, target)

    def _addresses(self, host: str, deadline: _Deadline) -> list[Address]:
        literal = literal_address(host)
        if literal is not None:
            return [literal]
        answers: queue.SimpleQueue[Sequence[str] | OSError | UnicodeError] = queue.SimpleQueue()

        def ask() -> None:
            try:
                answers.put(self._resolver(host))
            except (OSError, UnicodeError) as exc:
                answers.put(exc)

        # A look-up cannot be given up, only left behind.
        threading.Thread(target=ask, name="resolver", daemon=True).start()
        try:
            found = answers.get(timeout=deadline.left())
        except queue.Empty as exc:
            raise OutboundTimeoutError from exc
        if isinstance(found, Exception):
            raise NameUnresolvedError from found
        addresses = [ip_address(text) for text in dict.fromkeys(found)]
        if not addresses:
            raise NameUnresolvedError
        return addresses

    def _checked(self, addresses: list[Address]) -> list[Address]:
        # One that is not public among others is no accident that we want to benefit from.
        if not all(self._policy.allows(address) for address in addresses):
            raise AddressRefusedError
        return addresses[:_MOST_ADDRESSES]

    def _connect(self, addresses: list[Address], target: Target, deadline: _Deadline) -> socket.socket:
        until = _Deadline(min(self._patience.connect, deadline.left()), self._clock)
        for number, address in enumerate(addresses):
            share = until.left() / (len(addresses) - number)
            try:
                # A literal address: nothing is looked up again.
                connection = socket.create_connection((str(address), target.port), share)
            except OSError:
                if number == len(addresses) - 1:
                    raise
            else:
                return self._secured(connection, target, until) if target.tls else connection
        raise ConnectionFailedError

    def _secured(self, connection: socket.socket, target: Target, deadline: _Deadline) -> socket.socket:
        try:
            connection.settimeout(deadline.left())
            return self._tls.wrap_socket(connection, server_hostname=target.host)
        except (OSError, OutboundError):
            connection.close()
            raise


class _Deadline:
    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._at = clock() + seconds

    def left(self) -> float:
        """Seconds that are left. Raises OutboundTimeoutError when there are none."""
        left = self._at - self._clock()
        if left <= 0:
            raise OutboundTimeoutError
        return left


class _Reader(io.RawIOBase):
    # A time limit for each wait alone would let a server that sends a byte now and then hold us for ever.
    def __init__(self, connection: socket.socket, deadline: _Deadline, most_bytes: int) -> None:
        super().__init__()
        self._connection = connection
        self._deadline = deadline
        self._left = most_bytes

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override] # its bases disagree on the type
        if self._left <= 0:
            message = "the answer's head is too long"
            raise InvalidAnswerError(message)
        self._connection.settimeout(self._deadline.left())
        count = self._connection.recv_into(buffer)
        self._left -= count
        return count


class _Wire:
    """What ``http.client`` uses of a socket, with every wait up to the deadline alone."""

    def __init__(self, connection: socket.socket, deadline: _Deadline, most_bytes: int) -> None:
        self._connection = connection
        self._deadline = deadline
        self._most_bytes = most_bytes

    def makefile(self, _mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self._connection, self._deadline, self._most_bytes))

    def sendall(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            self._connection.settimeout(self._deadline.left())
            rest = rest[self._connection.send(rest) :]

    def close(self) -> None:
        """``http.client`` closes its socket before the body is read; whoever made the connection closes it."""


def _exchange(wire: _Wire, request: OutboundRequest, target: Target) -> OutboundAnswer:
    client = http.client.HTTPConnection(target.host, target.port)
    client.sock = wire
    headers = {"Host": target.authority, "Connection": "close", "Accept-Encoding": "identity", **request.headers}
    client.request(request.method, target.path, body=request.body, headers=headers)
    response = client.getresponse()
    body, complete = _body(response, request.most_bytes)
    return OutboundAnswer(
        status=response.status,
        headers={name.lower(): value for name, value in response.getheaders()},
        body=body,
        complete=complete,
    )


def _body(response: http.client.HTTPResponse, most: int) -> tuple[bytes, bool]:
    # The head has answered the request: what goes wrong from here on makes the body incomplete and no failure.
    body = bytearray()
    try:
        while len(body) < most:
            piece = response.read1(min(_READ_BYTES, most - len(body)))
            if not piece:
                return bytes(body), response.length in (0, None)
            body += piece
        return bytes(body), not response.read1(1)
    except (OSError, OutboundError, http.client.HTTPException):
        return bytes(body), False


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except TimeoutError as exc:
        raise OutboundTimeoutError from exc
    except (OSError, http.client.RemoteDisconnected) as exc:
        raise ConnectionFailedError from exc
    except (http.client.HTTPException, ValueError) as exc:
        raise InvalidAnswerError from exc
