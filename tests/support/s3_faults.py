"""An HTTP proxy in front of an S3 service. Tests script its outages: how they look, and at which request they begin."""

from __future__ import annotations

import contextlib
import http.client
import threading
from enum import StrEnum
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from tests.support.ports import LOOPBACK

if TYPE_CHECKING:
    from email.message import Message

_TARGET_SECONDS: Final = 30
_NOT_PASSED: Final = frozenset({"connection", "expect", "keep-alive", "transfer-encoding"})
_ERROR: Final = b"<?xml version='1.0'?><Error><Code>InternalError</Code><Message>a test says so</Message></Error>"


class Outage(StrEnum):
    """How the store fails."""

    BREAKS = "breaks"  # the connection ends before the request is heard
    HANGS = "hangs"  # no answer as long as it lasts
    ANSWERS_500 = "answers 500"
    LOSES_ANSWERS = "loses answers"  # the request is carried out, and nobody hears of it


class S3Faults:
    """Passes requests on, until an outage begins. ``endpoint`` is where clients connect."""

    def __init__(self, endpoint: str) -> None:
        target = urlsplit(endpoint)
        self._target = (target.hostname or LOOPBACK, target.port or 80)
        self._lock = threading.Lock()
        self._outage: Outage | None = None
        self._first = ""
        self._under_way = False
        self._over = threading.Event()
        self.hits: list[str] = []
        self._server = _Server((LOOPBACK, 0), _Handler, self)
        threading.Thread(target=self._server.serve_forever, name="s3-faults", daemon=True).start()

    @property
    def endpoint(self) -> str:
        """The proxy's address."""
        return f"http://{LOOPBACK}:{self._server.server_address[1]}"

    def begin(self, outage: Outage, at: str = "*") -> None:
        """From the first request on whose ``<method> <last part of the key>`` fits, every one fails, until ``end``."""
        with self._lock:
            self._outage, self._first, self._under_way = outage, at, False
            self.hits = []
            self._over = threading.Event()

    def end(self) -> None:
        """The store is well again; whoever hangs is let go without an answer."""
        with self._lock:
            self._outage, self._under_way = None, False
            self._over.set()

    def close(self) -> None:
        """Stop."""
        self.end()
        self._server.shutdown()
        self._server.server_close()

    def fate(self, request: str) -> tuple[Outage | None, threading.Event]:
        """What happens to a request, and what it waits for if it hangs."""
        with self._lock:
            if self._outage is not None and not self._under_way:
                self._under_way = fnmatchcase(request, self._first)
            if not self._under_way:
                return None, self._over
            self.hits.append(request)
            return self._outage, self._over

    def forward(self, method: str, path: str, headers: Message, body: bytes) -> _Answer:
        """What the real service says."""
        connection = http.client.HTTPConnection(*self._target, timeout=_TARGET_SECONDS)
        with contextlib.closing(connection):
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in headers.items():
                if name.lower() not in _NOT_PASSED:
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in _NOT_PASSED]
            return answer.status, kept, answer.read()


_Answer = tuple[int, list[tuple[str, str]], bytes]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[_Handler], faults: S3Faults) -> None:
        super().__init__(address, handler)
        self.faults = faults


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            super().handle()

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            super().finish()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Silent."""

    def _any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        key = urlsplit(self.path).path.rsplit("/", 1)[-1]
        outage, over = self.server.faults.fate(f"{self.command} {key}")
        if outage is Outage.ANSWERS_500:
            self._answer(500, [("Content-Type", "application/xml"), ("Content-Length", str(len(_ERROR)))], _ERROR)
            return
        if outage is Outage.HANGS:
            over.wait()
        if outage in {Outage.BREAKS, Outage.HANGS}:
            self.close_connection = True
            return
        answer = self.server.faults.forward(self.command, self.path, self.headers, body)
        if outage is Outage.LOSES_ANSWERS:
            self.close_connection = True
            return
        self._answer(*answer)

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        if status != http.client.NO_CONTENT and "content-length" not in {name.lower() for name, _ in headers}:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _any  # noqa: N815 - the library's names
