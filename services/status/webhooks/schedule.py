"""When a callback is tried again, and when no more. Pure."""

from __future__ import annotations

from datetime import UTC, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

_MINUTE: Final = 60.0
_HOUR: Final = 3600.0
# Seconds between a try and the one after it: 23 h 43 min in all.
DELAYS: Final = (
    *(5.0, 30.0, 2 * _MINUTE, 10 * _MINUTE, 30 * _MINUTE),
    *(_HOUR, 2 * _HOUR, 4 * _HOUR, 6 * _HOUR, 10 * _HOUR),
)
MOST_TRIES: Final = len(DELAYS) + 1
# Those that failed together shall not come back together.
_JITTER: Final = 0.2
# A receiver may ask for patience up to this.
LONGEST_RETRY_AFTER: Final = 6 * _HOUR


def next_due(tries: int, now: datetime, *, retry_after: float | None, draw: Callable[[], float]) -> datetime | None:
    """When to try again after so many tries; None when that was the last. ``draw`` gives a number from 0 to 1."""
    if tries >= MOST_TRIES:
        return None
    seconds = DELAYS[tries - 1] * (1 + _JITTER * draw())
    return now + timedelta(seconds=max(seconds, min(retry_after or 0.0, LONGEST_RETRY_AFTER)))


def retry_after_seconds(header: str | None, now: datetime) -> float | None:
    """What a Retry-After field asks for: seconds, or a date. None for anything else."""
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        moment = parsedate_to_datetime(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now.timestamp()
    except (ValueError, OverflowError):
        return None
