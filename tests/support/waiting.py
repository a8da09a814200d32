"""Bounded polling, in place of sleeps."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
_POLL_SECONDS: Final = 0.02


def until(condition: Callable[[], T], timeout: float = 10.0, what: str = "the condition") -> T:
    """Poll until the condition is truthy and return its value. Fails the test after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            message = f"waited {timeout:g} s in vain for {what}; last value: {value!r}"
            raise AssertionError(message)
        time.sleep(_POLL_SECONDS)
