"""Decides whether and how a task can run on this worker's device now, and learns from how it went."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from services.worker.gate import HOLD_SECONDS
from services.worker.ports import Plan
from shared.domain.prediction import TIERS

if TYPE_CHECKING:
    from services.worker.gate import Gate, Stop
    from services.worker.learning import Learner
    from services.worker.protocol import Computed
    from shared.contracts.task import TaskMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The memory that a task may take, in MiB, and the highest memory tier that an operator allows."""

    memory_mb: float
    highest_tier: str


class DevicePlanner:
    """A Planner over the gate of one device and what tasks taught of it."""

    def __init__(self, gate: Gate, learner: Learner, capacity: Capacity, stop: Stop) -> None:
        self._gate = gate
        self._learner = learner
        self._capacity = capacity
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
        return self._gate.may_take(self._learner.usual_need_mb())

    def plan(self, task: TaskMessage) -> Plan | None:
        """See Planner."""
        fitting = self._learner.tier_for(task.params, self._capacity.memory_mb)
        tier = max(fitting, self._capacity.highest_tier, key=TIERS.index)
        expected = self._learner.predict(task.params, tier)
        # The gateway's own figure counts where it is higher: it may know of slower workers, and it set the price.
        seconds = max(expected.gpu_seconds, task.predicted.gpu_seconds)
        if self._gate.admit(expected.vram_mb, HOLD_SECONDS, self._stop):
            figures = {**self._gate.figures(), "predicted_mb": expected.vram_mb}
            return Plan(tier=tier, seconds=seconds, memory_mb=expected.vram_mb, figures=figures)
        return None

    def plan_together(self, task: TaskMessage, plan: Plan) -> Plan | None:
        """See Planner."""
        fitting = self._learner.tier_for(task.params, self._capacity.memory_mb)
        expected = self._learner.predict(task.params, plan.tier)
        if TIERS.index(fitting) > TIERS.index(plan.tier) or not self._gate.fits_now(expected.vram_mb):
            return None
        return replace(
            plan,
            seconds=max(expected.gpu_seconds, task.predicted.gpu_seconds),
            memory_mb=expected.vram_mb,
            figures={**plan.figures, "predicted_mb": expected.vram_mb},
        )

    def succeeded(self, task: TaskMessage, plan: Plan, computed: Computed, seconds: float) -> None:
        """See Planner."""
        if plan.tier in TIERS and computed.tier in TIERS:
            for tier in TIERS[TIERS.index(plan.tier) : TIERS.index(computed.tier)]:
                self._learner.remember_oom(task.params, tier)
        peak = max(computed.memory.peak_mb, computed.memory.reserved_mb)
        self._learner.observe(task.params, computed.tier or plan.tier, seconds, peak or None)

    def ran_out(self, task: TaskMessage, plan: Plan, tier: str) -> None:
        """See Planner."""
        # The last tier is the child's word, which may be any.
        last = tier if tier in TIERS else plan.tier
        for each in TIERS[TIERS.index(plan.tier) : TIERS.index(last) + 1]:
            self._learner.remember_oom(task.params, each)
