"""A TCP proxy on loopback whose connections a test can cut, hold back and refuse."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Final

from tests.support.ports import LOOPBACK

_CHUNK: Final = 65536


class TcpProxy:
    """Passes bytes on to one port. ``port`` is where clients connect."""

    def __init__(self, target_port: int) -> None:
        self._target = (LOOPBACK, target_port)
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._asking, self._answering = threading.Event(), threading.Event()
        self.release()
        self._refusing = False
        self._server = socket.create_server((LOOPBACK, 0))
        self.port: int = self._server.getsockname()[1]
        self.cuts = 0
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def cut(self) -> None:
        """Break every connection at once; new ones are taken."""
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        self.cuts += 1
        for each in sockets:
            _break(each)

    def hold(self) -> None:
        """Pass nothing on, as a network that lost its route does; connections stay open."""
        self._asking.clear()
        self._answering.clear()

    def hold_answers(self) -> None:
        """Pass on what clients send and nothing of what they are answered."""
        self._answering.clear()

    def release(self) -> None:
        """Pass everything on again."""
        self._asking.set()
        self._answering.set()

    def refuse(self, *, refuse: bool = True) -> None:
        """Break every connection and take no new one (or take them again)."""
        self._refusing = refuse
        if refuse:
            self.cut()

    def close(self) -> None:
        """End."""
        self.release()
        self._server.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            if self._refusing:
                _break(client)
                continue
            try:
                target = socket.create_connection(self._target, timeout=5)
            except OSError:
                _break(client)
                continue
            target.settimeout(None)
            with self._lock:
                self._sockets |= {client, target}
            for source, sink, flowing in ((client, target, self._asking), (target, client, self._answering)):
                threading.Thread(target=self._pass, args=(source, sink, flowing), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, flowing: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(_CHUNK):
                flowing.wait()
                sink.sendall(chunk)
        for each in (source, sink):
            _break(each)
        with self._lock:
            self._sockets -= {source, sink}


def _break(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()
