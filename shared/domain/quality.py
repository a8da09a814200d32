"""How much work a result is worth: three levels, and when a lower one than asked for is made under load. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection


class Quality(StrEnum):
    """What a request asks for; a model's card says what it means there."""

    DRAFT = "draft"
    STANDARD = "standard"
    HIGH = "high"


# From the cheapest to the dearest.
QUALITIES: Final = tuple(Quality)


def next_cheaper(asked: Quality, offered: Collection[Quality]) -> Quality | None:
    """The dearest of the offered levels below ``asked``; None where there is none."""
    below = [quality for quality in QUALITIES[: QUALITIES.index(asked)] if quality in offered]
    return below[-1] if below else None


def under_load(
    asked: Quality, offered: Collection[Quality], wait_seconds: float | None, above_seconds: float | None
) -> Quality:
    """The quality to make: one level less than asked for while a task waits longer than ``above_seconds``.

    What nobody knows (``wait_seconds`` None) and what the card does not allow (``above_seconds`` None) lowers nothing.
    """
    if wait_seconds is None or above_seconds is None or wait_seconds <= above_seconds:
        return asked
    return next_cheaper(asked, offered) or asked
