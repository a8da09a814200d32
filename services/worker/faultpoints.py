"""A switch for tests: end this process, as kill -9 would, before or after one named step between delivery and ack.

Every step is a call to the outside (store, broker, child), so the points lie around the adapters and nothing of them is
in the code that they test. ``ATELIER_FAULT_POINT="after create outcome.json"``; a pattern's ``*`` fits anything.
"""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final, TypeVar, cast

from shared.domain.errors import ConfigurationError
from shared.logging import get_logger
from shared.messaging.ports import OutboundMessage

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
log = get_logger(__name__)

_WHEN: Final = ("before", "after")


@dataclass(frozen=True, slots=True)
class FaultPoint:
    """Before or after the first step whose name fits the pattern."""

    when: str
    pattern: str

    @classmethod
    def parse(cls, text: str) -> FaultPoint:
        """Read ``<before|after> <pattern>``. Raises ConfigurationError."""
        when, _, pattern = text.partition(" ")
        if when not in _WHEN or not pattern:
            message = f"ATELIER_FAULT_POINT {text!r} is not 'before <step>' or 'after <step>'"
            raise ConfigurationError(message)
        return cls(when, pattern)

    def reach(self, when: str, step: str) -> None:
        """Die here if this is the point."""
        if when == self.when and fnmatchcase(step, self.pattern):
            log.warning("fault_point_reached", when=when, step=step)
            os.kill(os.getpid(), signal.SIGKILL)


def around(target: T, point: FaultPoint | None) -> T:
    """The same object with the point around each of its methods; the object itself without a point."""
    return target if point is None else cast("T", _Watched(target, point))


class _Watched:
    def __init__(self, target: object, point: FaultPoint) -> None:
        self._target = target
        self._point = point

    def __getattr__(self, name: str) -> object:
        attribute = getattr(self._target, name)
        return self._watched(name, attribute) if callable(attribute) else attribute

    def _watched(self, name: str, method: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            step = f"{name} {_subject(arguments)}".strip()
            self._point.reach("before", step)
            result = method(*arguments, **options)
            self._point.reach("after", step)
            return result

        return call


def _subject(arguments: tuple[object, ...]) -> str:
    first = arguments[0] if arguments else ""
    if isinstance(first, OutboundMessage):
        return f"{first.exchange} {first.routing_key}"
    return first.rsplit("/", 1)[-1] if isinstance(first, str) else ""
