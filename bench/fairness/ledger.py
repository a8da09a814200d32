"""What the gateways' ledger and the status service's sweeper know, in one process: outstanding work, who waits."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from shared.domain.lifting import FairClock, Line, WaitingTask, horizon_seconds
from shared.domain.priority import FairSharePolicy, level

if TYPE_CHECKING:
    from bench.fairness.jobs import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The queue: how many workers take from it, and how often its waiting tasks are looked at.

    ``overhead`` is what a worker needs between two jobs; it is part of no job's work.
    """

    workers: int = 1
    interval: float = 5.0
    overhead: float = 0.0


POLICY: Final = FairSharePolicy(quantum_seconds=1.0)


class Ledger:
    """Levels by fair share; lifts by the fair clock."""

    def __init__(self, policy: FairSharePolicy, pace: Pace) -> None:
        self.policy = policy.on_workers(pace.workers)
        self._horizon = horizon_seconds(self.policy, pace.workers, pace.interval)
        self._clock = FairClock(self.policy)
        self._outstanding: dict[str, float] = defaultdict(float)
        self._waiting: dict[str, dict[str, Job]] = defaultdict(dict)

    def admit(self, job: Job) -> int:
        """The level for a new job."""
        outstanding = self._outstanding[job.tenant]
        self._outstanding[job.tenant] += job.predicted
        self._waiting[job.tenant][job.name] = job
        if job.forced_level is not None:
            return job.forced_level
        return level(self.policy, job.share, outstanding)

    def started(self, job: Job) -> None:
        """A worker has it."""
        del self._waiting[job.tenant][job.name]
        self._clock.charge(job.tenant, job.share, job.predicted)

    def ended(self, job: Job) -> None:
        """It is done; what it really took is known."""
        self._outstanding[job.tenant] -= job.predicted
        self._clock.charge(job.tenant, job.share, job.work - job.predicted)

    def lifts(self, now: float) -> list[tuple[Job, int]]:
        """The jobs to publish again, and at which level."""
        heads = {tenant: self._head(waiting) for tenant, waiting in self._waiting.items() if waiting}
        lines = {
            tenant: Line(
                head[0].share,
                [
                    WaitingTask(job.name, job.predicted, job.level, (now - job.arrives) / job.start_within)
                    for job in head
                ],
            )
            for tenant, head in heads.items()
        }
        jobs = {job.name: job for head in heads.values() for job in head}
        return [(jobs[lift.task_id], lift.level) for lift in self._clock.lifts(lines, self._horizon)]

    def _head(self, waiting: dict[str, Job]) -> list[Job]:
        """The oldest that a pass looks at."""
        head, work = [], 0.0
        for job in waiting.values():
            if work >= self._horizon:
                break
            head.append(job)
            work += job.predicted
        return head


class FrozenLedger(Ledger):
    """Levels by fair share, and nothing lifted."""

    def lifts(self, now: float) -> list[tuple[Job, int]]:
        """None."""
        del now
        return []


class AgeingLedger(Ledger):
    """What the design began with: a task is published again when it has waited half its ``start_within``.

    Its level is then that of the work before it in its own tenant's line.
    """

    def lifts(self, now: float) -> list[tuple[Job, int]]:
        """Those that have waited so long."""
        lifts = []
        for waiting in self._waiting.values():
            ahead = 0.0
            for job in waiting.values():
                raised = level(self.policy, job.share, ahead)
                if now - job.arrives >= 0.5 * job.start_within and raised > job.level:
                    lifts.append((job, raised))
                ahead += job.predicted
        return lifts
