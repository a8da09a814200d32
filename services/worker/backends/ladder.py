"""The ladder of memory tiers: what did not fit is tried once more, one rung down."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from services.worker.backends.base import OutOfMemoryError
from services.worker.backends.oom import is_out_of_memory
from shared.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

R = TypeVar("R")


def rungs(tiers: Sequence[str], wanted: str) -> tuple[str, ...]:
    """Return the tier to try, and the one to try if that one does not fit. Raises ConfigurationError."""
    if wanted not in tiers:
        message = f"memory tier {wanted!r} is not one of {', '.join(tiers)}"
        raise ConfigurationError(message)
    first = tiers.index(wanted)
    return tuple(tiers[first : first + 2])


def climb(tiers: Sequence[str], attempt: Callable[[str], R], release: Callable[[], None]) -> R:
    """Return the first attempt that fits. ``release`` frees what a failed one left behind.

    Raises OutOfMemoryError when the last tier does not fit either; an error that is none of memory ends the climb.
    """
    for tier in tiers[:-1]:
        try:
            return attempt(tier)
        except Exception as exc:
            if not is_out_of_memory(exc):
                raise
        # Only here is the exception gone, and with it the frames that hold the failed attempt's tensors.
        release()
    try:
        return attempt(tiers[-1])
    except Exception as exc:
        if isinstance(exc, OutOfMemoryError) or not is_out_of_memory(exc):
            raise
        message = f"{type(exc).__name__}: {exc}"
        raise OutOfMemoryError(message) from exc
