"""Many clients of streams in one process: they read, note what came when, and do nothing else.

As a program it reads its orders (JSON) from standard input, says "open" once every stream is, and at the end what came.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_AT_ONCE: Final = 200
_READ_BYTES: Final = 256 * 1024
_AT: Final = b'"at":"'
_AT_LENGTH: Final = 32
_PATIENCE_SECONDS: Final = 60.0


@dataclass(slots=True)
class Line:
    """One client. ``events`` are (id, type) in the order of their coming, ``status`` the answer's, ``lags`` seconds."""

    path: str
    key: str
    last_event_id: str = ""
    leaves_after: str = ""  # an event's name
    status: int = 0
    events: list[tuple[str, str]] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)
    over: bool = False
    hung_up: bool = False  # by the other side
    _buffer: bytes = b""

    def request(self) -> bytes:
        # In version 1.0 of the protocol a body is whatever comes until the end: nothing to unwrap.
        resume = f"Last-Event-ID: {self.last_event_id}\r\n" if self.last_event_id else ""
        return (
            f"GET {self.path} HTTP/1.0\r\nHost: bench\r\nAuthorization: Bearer {self.key}\r\n"
            f"Accept: text/event-stream\r\n{resume}\r\n"
        ).encode()

    def feed(self, data: bytes, now: float) -> None:
        """Take what was received; nothing is the end."""
        if not data:
            self.over = self.hung_up = True
            return
        self._buffer += data
        if not self.status:
            head, found, rest = self._buffer.partition(b"\r\n\r\n")
            if not found:
                return
            self.status = int(head.split(b" ", 2)[1])
            self._buffer = rest
        *blocks, self._buffer = self._buffer.split(b"\n\n")
        for block in blocks:
            self._note(block, now)

    def _note(self, block: bytes, now: float) -> None:
        place = kind = ""
        for line in block.split(b"\n"):
            if line.startswith(b"id: "):
                place = line[4:].decode()
            elif line.startswith(b"event: "):
                kind = line[7:].decode()
            elif line.startswith(b"data: ") and (at := line.find(_AT)) > 0 and kind != "snapshot":
                text = line[at + len(_AT) : at + len(_AT) + _AT_LENGTH].decode()
                self.lags.append(now - datetime.fromisoformat(text.partition('"')[0]).timestamp())
        if kind:
            self.events.append((place, kind))
            self.over = self.over or kind == self.leaves_after


class Crowd:
    """So many lines to one address, read by one thread."""

    def __init__(self, host: str, port: int, lines: Sequence[Line]) -> None:
        self.lines = lines
        self._address = (host, port)
        self._poll = select.epoll()
        self._open: dict[int, tuple[socket.socket, Line]] = {}

    def open(self) -> None:
        """Open every line, a few hundred at a time, and wait for each answer."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        for begin in range(0, len(self.lines), _AT_ONCE):
            batch = self.lines[begin : begin + _AT_ONCE]
            for line in batch:
                client = socket.create_connection(self._address, _PATIENCE_SECONDS)
                client.sendall(line.request())
                client.settimeout(0)
                self._open[client.fileno()] = (client, line)
                self._poll.register(client.fileno(), select.EPOLLIN)
            while not all(line.status or line.over for line in batch) and time.monotonic() < deadline:
                self.pump(1.0)

    def pump(self, seconds: float) -> None:
        """Read what comes within a while, once."""
        for descriptor, _ in self._poll.poll(seconds):
            client, line = self._open[descriptor]
            try:
                data = client.recv(_READ_BYTES)
            except BlockingIOError:
                continue
            except ConnectionError:
                data = b""
            line.feed(data, time.time())
            if line.over:
                self._poll.unregister(descriptor)
                del self._open[descriptor]
                client.close()

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Read until every line is over, or something has come true, or the time is over."""
        deadline = time.monotonic() + seconds
        while self._open and not until() and time.monotonic() < deadline:
            self.pump(0.5)

    def close(self) -> None:
        """Leave."""
        for client, _ in self._open.values():
            client.close()
        self._open.clear()
        self._poll.close()


def main() -> int:
    orders = json.loads(sys.stdin.readline())
    crowd = Crowd(
        orders["host"], orders["port"], [Line(path, key, leaves_after="succeeded") for path, key in orders["lines"]]
    )
    began = time.monotonic()
    crowd.open()
    statuses = Counter(line.status for line in crowd.lines)
    print(json.dumps({"open": statuses, "seconds": round(time.monotonic() - began, 2)}), flush=True)
    crowd.run(orders["seconds"])
    crowd.close()
    report = {
        "events": [[kind for _, kind in line.events] for line in crowd.lines],
        "ids": [[place for place, _ in line.events] for line in crowd.lines],
        "lags": [round(lag, 4) for line in crowd.lines for lag in line.lags],
        "over": sum(line.over for line in crowd.lines),
        "cpu_seconds": time.process_time(),
    }
    print(json.dumps(report), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
