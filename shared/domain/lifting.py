"""Which waiting tasks to publish again at a higher level, so that frozen levels do not decide who is served. Pure.

A level says how long its tenant's line was at the submit, not how long it is now: without lifting, the backlog of one
tenant starves below others that submit steadily, and of two backlogs on one level the older is served first. The clock
here does what start-time fair queueing does: every tenant has a mark of the work that was started for it, divided by
its weight; a line moves up while its mark is behind the others'.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from shared.domain.priority import FairSharePolicy, Share

_CONTENDERS: Final = 2


class WaitingTask(NamedTuple):
    """A task that has not started. ``waited_share``: the part of its ``start_within`` that has passed."""

    task_id: str
    predicted_seconds: float
    level: int
    waited_share: float


@dataclass(frozen=True, slots=True)
class Line:
    """A tenant's waiting tasks on one work queue, the oldest first."""

    share: Share
    tasks: Sequence[WaitingTask]


class Lift(NamedTuple):
    """Publish this task again, at this level."""

    task_id: str
    level: int


def horizon_seconds(policy: FairSharePolicy, workers: int, interval_seconds: float) -> float:
    """How much work may start before the next pass, in GPU-seconds: as far into each line a pass must look."""
    return max(workers, 1) * interval_seconds + policy.quantum_seconds


class FairClock:
    """The marks of one work queue's tenants. Held in memory: one that starts anew only forgets who was ahead."""

    def __init__(self, policy: FairSharePolicy) -> None:
        self._policy = policy
        self._now = 0.0
        self._marks: dict[str, float] = {}

    def adopt(self, policy: FairSharePolicy) -> None:
        """Decide by another policy from now on, since the queue's workers or usual job have changed. Marks stay."""
        self._policy = policy

    def charge(self, tenant_id: str, share: Share, seconds: float) -> None:
        """Work was started for a tenant: its predicted seconds. When it ends: the actual seconds less the predicted."""
        mark = self._marks.get(tenant_id)
        work = seconds / share.weight
        # Who waits may come to stand before the clock by what was predicted too high; nobody else brings a claim along.
        self._marks[tenant_id] = self._now + max(work, 0.0) if mark is None else mark + work

    def lifts(self, lines: Mapping[str, Line], horizon: float) -> list[Lift]:
        """The tasks to lift in this pass, of all tenants that have tasks waiting on the queue."""
        ready = {tenant_id: tasks for tenant_id, line in lines.items() if (tasks := self._patient(line))}
        self._advance(ready)
        if len(ready) < _CONTENDERS:
            return []  # alone, a tenant gains nothing from another order of its own tasks
        return [lift for tenant_id, tasks in ready.items() for lift in self._of_line(tenant_id, lines, tasks, horizon)]

    def _patient(self, line: Line) -> list[WaitingTask]:
        patience = self._policy.lanes[line.share.lane].patience
        return [task for task in line.tasks if task.waited_share >= patience]

    def _advance(self, ready: Mapping[str, object]) -> None:
        """Move to the mark that is furthest behind; who did not wait loses what it did not ask for."""
        if not ready:
            self._now, self._marks = 0.0, {}
            return
        waiting = {tenant_id: self._marks.get(tenant_id, self._now) for tenant_id in ready}
        self._now = min(waiting.values())
        self._marks = {tenant_id: mark for tenant_id, mark in self._marks.items() if mark > self._now} | waiting

    def _of_line(
        self, tenant_id: str, lines: Mapping[str, Line], tasks: Sequence[WaitingTask], horizon: float
    ) -> list[Lift]:
        policy, weight = self._policy, lines[tenant_id].share.weight
        lead = self._marks[tenant_id] - self._now
        turn = policy.level_at(0.0)
        lifts, ahead = [], 0.0
        for task in tasks:
            if ahead >= horizon:
                break
            level = policy.level_at(lead + ahead / weight)
            if level >= task.level + policy.least_rise or task.level < level == turn:
                lifts.append(Lift(task.task_id, level))
            ahead += task.predicted_seconds
        return lifts
