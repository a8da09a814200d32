"""When a child that works is replaced by a fresh one: after so many tasks, or when memory does not come back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.worker.backends.base import Memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Recycling:
    """Thresholds; 0 switches one off. Memory is MiB beyond what the child held once its first task was done."""

    after_tasks: int = 0
    leaked_mb: int = 0
    fragmented_mb: int = 0


class Wear:
    """What one child has been through. The first task warms caches up, so the second one's start is the measure."""

    def __init__(self, recycling: Recycling) -> None:
        self._recycling = recycling
        self._tasks = 0
        self._base: Memory | None = None
        self._now: Memory | None = None

    def served(self, memory: Memory) -> None:
        """A task was computed and this is what the child holds now."""
        self._tasks += 1
        self._base = self._base or memory
        self._now = memory

    @property
    def reason(self) -> str | None:
        """Why the child should be replaced, or None."""
        limits, base, now = self._recycling, self._base, self._now
        if base is None or now is None:
            return None
        if limits.after_tasks and self._tasks >= limits.after_tasks:
            return f"{self._tasks} tasks"
        leaked = max(now.allocated_mb - base.allocated_mb, now.rss_mb - base.rss_mb)
        if limits.leaked_mb and leaked > limits.leaked_mb:
            return f"{leaked} MiB leaked"
        fragmented = now.reserved_mb - now.allocated_mb
        if limits.fragmented_mb and fragmented > limits.fragmented_mb:
            return f"{fragmented} MiB fragmented"
        return None
