"""A job that a process repeats for as long as it lives."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

log = get_logger(__name__)

FAILURE_SECONDS: Final = 1.0


def repeat(step: Callable[[], float], name: str) -> None:
    """Begin to take steps, each of which returns the seconds until the next. In a gevent process it is a greenlet."""
    threading.Thread(target=_forever, args=(step,), name=name, daemon=True).start()


def _forever(step: Callable[[], float]) -> None:
    while True:
        try:
            seconds = step()
        except Exception:  # a thread's boundary: every stream hangs on it
            log.exception("step_crashed")
            seconds = FAILURE_SECONDS
        time.sleep(seconds)
