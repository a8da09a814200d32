"""One thing of a process or a library that can be read and written back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable


class Setting(NamedTuple):
    """How to read and write it. What cannot be compared (arrays) is always written."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]
    comparable: bool = True

    def restore(self, before: object) -> bool:
        """Write ``before`` back where it differs; returns whether it was seen to differ."""
        if self.comparable and self.read() == before:
            return False
        self.write(before)
        return self.comparable
