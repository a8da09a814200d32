"""A log stream for gevent processes: what one turn of the loop logs goes out in few writes."""

from __future__ import annotations

import atexit
from typing import TYPE_CHECKING, Final, TextIO, cast

import gevent

if TYPE_CHECKING:
    from collections.abc import Iterator

# POSIX: what is written to a pipe in one piece of up to so many bytes is not mixed with what other processes write.
PIPE_BUF: Final = 4096


class GatheredLines:
    """Stands in for a text stream whose writes are whole lines. A line waits for the end of its turn, about a ms.

    A system call for each line, and the reader that it wakes, cost a busy gateway several percent.
    """

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lines: list[str] = []
        atexit.register(self.send)

    def write(self, text: str) -> int:
        """Keep the line until the turn ends."""
        if not self._lines:
            gevent.get_hub().loop.run_callback(self.send)
        self._lines.append(text)
        return len(text)

    def flush(self) -> None:
        """The turn's end does it."""

    def isatty(self) -> bool:
        """Whether a person reads along."""
        return self._out.isatty()

    def send(self) -> None:
        """Write what there is."""
        lines, self._lines = self._lines, []
        for piece in _pieces(lines):
            self._out.write(piece)
            self._out.flush()


def gathered(out: TextIO) -> TextIO:
    """The stream, gathered; what ``shared.logging.configure`` takes."""
    return cast("TextIO", GatheredLines(out))


def _pieces(lines: list[str]) -> Iterator[str]:
    piece: list[str] = []
    size = 0
    for line in lines:
        length = len(line.encode(errors="replace"))
        if piece and size + length > PIPE_BUF:
            yield "".join(piece)
            piece, size = [], 0
        piece.append(line)
        size += length
    if piece:
        yield "".join(piece)
