"""Decides whether and how a task can run on this worker's device now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.worker.ports import Plan

if TYPE_CHECKING:
    from shared.contracts.task import TaskMessage


class DevicePlanner:
    """A Planner."""

    def has_room(self) -> bool:
        """See Planner."""
        return True

    def plan(self, task: TaskMessage) -> Plan | None:
        """See Planner."""
        return Plan(seconds=task.predicted.gpu_seconds, memory_mb=task.predicted.vram_mb)
