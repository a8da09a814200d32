"""What a process would have logged, as data."""

from __future__ import annotations

import io
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import orjson
import structlog

from shared.logging import configure, unbind_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def captured_lines() -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """Configure logging as a worker does, and give a function that returns every line so far."""
    stream = io.StringIO()
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    configure("worker", stream=stream)
    try:
        yield lambda: [orjson.loads(line) for line in stream.getvalue().splitlines()]
    finally:
        structlog.reset_defaults()
        unbind_all()
        logging.captureWarnings(capture=False)
        root.handlers = handlers
        root.setLevel(level)
