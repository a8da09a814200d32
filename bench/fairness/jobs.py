"""What is scheduled, and what became of it. Time is in lengths of a usual job, work in GPU-seconds of the same unit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.report import percentile

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.domain.priority import Share


@dataclass(slots=True, eq=False)
class Job:
    """One task. ``work`` is the truth, ``predicted`` what the scheduler is told."""

    name: str
    tenant: str
    share: Share
    arrives: float
    work: float
    predicted: float
    start_within: float
    forced_level: int | None = None
    level: int = 0
    copies: int = 0
    started: float | None = None
    ended: float | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """Everything that happened until ``horizon``. ``overhead`` is what a worker lost between two jobs, on average."""

    jobs: list[Job]
    horizon: float
    lifts: int = 0
    overhead: float = 0.0
    tenants: list[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "tenants", sorted({job.tenant for job in self.jobs}))

    def waits(self, of: Callable[[str], bool]) -> list[float]:
        """From the arrival to the start, or to the horizon where it has not started."""
        return [
            (self.horizon if job.started is None else min(job.started, self.horizon)) - job.arrives
            for job in self.jobs
            if of(job.tenant) and job.arrives < self.horizon
        ]

    def wait(self, of: Callable[[str], bool], share: float = 0.95) -> float:
        """A percentile of the waits."""
        return percentile(self.waits(of), share)

    def served(self, tenant: str, begin: float, end: float) -> float:
        """GPU-seconds that a tenant got between two moments."""
        return sum(
            max(0.0, min(end, job.started + job.work) - max(begin, job.started))
            for job in self.jobs
            if job.tenant == tenant and job.started is not None
        )

    def served_to_all(self, begin: float, end: float) -> float:
        """GPU-seconds that everybody got."""
        return sum(self.served(tenant, begin, end) for tenant in self.tenants)

    def weighted(self, tenants: list[str], begin: float, end: float) -> list[float]:
        """What each tenant got, divided by its weight."""
        weights = {job.tenant: job.share.weight for job in self.jobs}
        return [self.served(tenant, begin, end) / weights[tenant] for tenant in tenants]

    def contention(self, tenants: list[str]) -> float:
        """Until when all of these tenants had something left to be served."""
        ends = [
            max((job.ended if job.ended is not None else self.horizon) for job in self.jobs if job.tenant == tenant)
            for tenant in tenants
        ]
        return min([*ends, self.horizon])

    @property
    def copies_each(self) -> float:
        """Stale copies for each task that was started."""
        return self.lifts / max(1, sum(job.started is not None for job in self.jobs))


def jain(values: list[float]) -> float:
    """Jain's index: 1 where all have the same, 1/n where one has everything."""
    squares = sum(value * value for value in values)
    return 1.0 if not squares else sum(values) ** 2 / (len(values) * squares)
