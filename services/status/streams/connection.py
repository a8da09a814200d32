"""The socket under a stream: when its client goes, and how to let go of one that takes nothing."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any, Final, Protocol

import gevent

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# What the kernel keeps for a client that does not read, besides its mailbox.
_SEND_BUFFER_BYTES: Final = 128 * 1024
_READABLE: Final = 1


class Connection(Protocol):
    """The way to one client."""

    def watch(self, gone: Callable[[], None]) -> None:
        """Have ``gone`` called once when the client leaves; it must not wait."""
        ...

    def cut(self) -> None:
        """Give it up: whoever is writing to it fails."""
        ...

    def release(self) -> None:
        """Watch it no more."""
        ...


class GeventConnection:
    """A Connection over a socket of gevent's."""

    __slots__ = ("_socket", "_watcher")

    def __init__(self, client: socket.socket) -> None:
        self._socket = client
        self._watcher: Any = None

    def watch(self, gone: Callable[[], None]) -> None:
        """See Connection. A client that sends something in the middle of a stream has left it, too."""
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        watcher = gevent.get_hub().loop.io(self._socket.fileno(), _READABLE)

        def on_readable() -> None:
            watcher.stop()
            gone()

        watcher.start(on_readable)
        self._watcher = watcher

    def cut(self) -> None:
        """See Connection."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        """See Connection."""
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
            self._watcher = None


class NoConnection:
    """A Connection where the server does not show its socket; its client's end is noticed at the next write."""

    def watch(self, gone: Callable[[], None]) -> None:
        """See Connection."""

    def cut(self) -> None:
        """See Connection."""

    def release(self) -> None:
        """See Connection."""


def connection_of(environ: Mapping[str, Any]) -> Connection:
    """The connection of a WSGI request."""
    client = environ.get("gunicorn.socket")
    return NoConnection() if client is None else GeventConnection(client)
