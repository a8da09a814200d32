"""Decides whether and how a task can run on this worker's device now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.worker.errors import TooLargeError
from services.worker.gate import HOLD_SECONDS
from services.worker.ports import Plan

if TYPE_CHECKING:
    from services.worker.gate import Gate, Stop
    from shared.contracts.task import TaskMessage


class DevicePlanner:
    """A Planner over the gate of one device."""

    def __init__(self, gate: Gate, stop: Stop) -> None:
        self._gate = gate
        self._stop = stop

    @property
    def broken(self) -> bool:
        """See Planner."""
        return self._gate.broken

    @property
    def pause_seconds(self) -> float:
        """See Planner."""
        return self._gate.sample_seconds

    def has_room(self) -> bool:
        """See Planner."""
        return self._gate.may_take(0)

    def plan(self, task: TaskMessage) -> Plan | None:
        """See Planner."""
        need = task.predicted.vram_mb
        if self._gate.admit(need, HOLD_SECONDS, self._stop):
            return Plan(seconds=task.predicted.gpu_seconds, memory_mb=need, figures=self._gate.figures())
        if not self._gate.could_fit(need):
            message = f"the task needs about {need} MiB, which this worker's device does not have"
            raise TooLargeError(message)
        return None
