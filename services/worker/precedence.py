"""Lets the next task begin before the last one is stored.

Both use the same interpreter and the same store at the same moment, and only one of them keeps the device waiting.
"""

from __future__ import annotations

import threading
from typing import Final

# A task that waits in the queue is delivered within a few milliseconds; a start takes two or three times as long.
DELIVERY_SECONDS: Final = 0.006
START_SECONDS: Final = 0.05


class Precedence:
    """The main thread says how far its next task is; the finisher waits for it, never for long."""

    def __init__(self, delivery_seconds: float = DELIVERY_SECONDS, start_seconds: float = START_SECONDS) -> None:
        self._delivery_seconds, self._start_seconds = delivery_seconds, start_seconds
        self._changed = threading.Condition()
        self._looking = False
        self._starting = False

    def look(self) -> None:
        """The device is free, and a delivery may come at once."""
        self._set(looking=True, starting=False)

    def start(self) -> None:
        """A delivery has come, its task may start."""
        self._set(looking=False, starting=True)

    def done(self) -> None:
        """The task computes, or it does not start."""
        self._set(looking=False, starting=False)

    def give_way(self) -> None:
        """Wait while a task is about to start."""
        with self._changed:
            self._changed.wait_for(lambda: not self._looking, self._delivery_seconds)
            self._changed.wait_for(lambda: not self._starting, self._start_seconds)

    def _set(self, *, looking: bool, starting: bool) -> None:
        with self._changed:
            self._looking, self._starting = looking, starting
            self._changed.notify_all()
