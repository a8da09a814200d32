"""The broker and its workers as discrete events, under any scheduler.

The broker as measured: ten strict levels, first come first served within one, a level never changes. Workers take one
job when they are free and do not put it back.
"""

from __future__ import annotations

import heapq
from collections import defaultdict, deque
from itertools import count
from typing import TYPE_CHECKING, Final, Protocol

from bench.fairness.jobs import Result
from shared.domain.priority import HIGHEST_LEVEL
from shared.domain.task import LANE_PRIORITY

if TYPE_CHECKING:
    from bench.fairness.jobs import Job
    from bench.fairness.ledger import Ledger, Pace

# What a worker spends on a copy of a task that has started elsewhere: a look into the bucket.
STALE_SECONDS: Final = 0.01
_END, _ARRIVAL, _PASS = range(3)  # in this order where they fall on one moment


class Scheduler(Protocol):
    """What decides who is next."""

    lifts: int

    def add(self, job: Job) -> None:
        """A job arrives."""
        ...

    def take(self, now: float) -> tuple[Job | None, float]:
        """The next job, if any, and what was spent on copies before it."""
        ...

    def end(self, job: Job) -> None:
        """A job is done."""
        ...

    def look(self, now: float) -> None:
        """The periodic pass over what waits."""
        ...


class _Passive:
    """A scheduler that learns nothing from ends and passes."""

    lifts = 0

    def end(self, job: Job) -> None:
        """See Scheduler."""

    def look(self, now: float) -> None:
        """See Scheduler."""


class Fifo(_Passive):
    """First come first served."""

    def __init__(self) -> None:
        self._queue: deque[Job] = deque()

    def add(self, job: Job) -> None:
        """See Scheduler."""
        self._queue.append(job)

    def take(self, now: float) -> tuple[Job | None, float]:
        """See Scheduler."""
        del now
        return (self._queue.popleft() if self._queue else None), 0.0


class Lanes(_Passive):
    """A fixed level for each lane."""

    def __init__(self) -> None:
        self._queues = {level: Fifo() for level in sorted(LANE_PRIORITY.values(), reverse=True)}

    def add(self, job: Job) -> None:
        """See Scheduler."""
        self._queues[LANE_PRIORITY[job.share.lane]].add(job)

    def take(self, now: float) -> tuple[Job | None, float]:
        """See Scheduler."""
        for queue in self._queues.values():
            job, spent = queue.take(now)
            if job is not None:
                return job, spent
        return None, 0.0


class StartTimeFair(_Passive):
    """Start-time fair queueing (Goyal, Vin, Cheng 1996) that knows the true work: the reference."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Job]] = []
        self._order = count()
        self._now = 0.0
        self._finish: dict[str, float] = defaultdict(float)

    def add(self, job: Job) -> None:
        """See Scheduler."""
        start = max(self._now, self._finish[job.tenant])
        self._finish[job.tenant] = start + job.work / job.share.weight
        heapq.heappush(self._heap, (start, next(self._order), job))

    def take(self, now: float) -> tuple[Job | None, float]:
        """See Scheduler."""
        del now
        if not self._heap:
            return None, 0.0
        start, _, job = heapq.heappop(self._heap)
        self._now = max(self._now, start)
        return job, 0.0


class Levels:
    """The broker's levels under a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self.lifts = 0
        self._ledger = ledger
        self._levels: list[deque[Job]] = [deque() for _ in range(HIGHEST_LEVEL + 1)]

    def add(self, job: Job) -> None:
        """See Scheduler."""
        job.level = self._ledger.admit(job)
        self.put(job)

    def take(self, now: float) -> tuple[Job | None, float]:
        """See Scheduler."""
        del now
        spent = 0.0
        while (job := self.head()) is not None:
            if job.started is None:
                self._ledger.started(job)
                return job, spent
            spent += STALE_SECONDS
        return None, spent

    def end(self, job: Job) -> None:
        """See Scheduler."""
        self._ledger.ended(job)

    def look(self, now: float) -> None:
        """See Scheduler."""
        for job, level in self._ledger.lifts(now):
            job.level = level
            job.copies += 1
            self.lifts += 1
            self.put(job)

    def put(self, job: Job) -> None:
        """Queue it, or a copy of it, by its level."""
        self._levels[job.level].append(job)

    def head(self) -> Job | None:
        """Take what the broker delivers next, which may be a copy of what has started."""
        return next((level.popleft() for level in reversed(self._levels) if level), None)


def simulate(jobs: list[Job], scheduler: Scheduler, pace: Pace, horizon: float) -> Result:
    """Serve the jobs until the horizon."""
    order = count()
    events: list[tuple[float, int, int, Job | None]] = [(job.arrives, _ARRIVAL, next(order), job) for job in jobs]
    events.append((pace.interval, _PASS, next(order), None))
    heapq.heapify(events)
    free, open_jobs = pace.workers, len(jobs)
    while open_jobs and events[0][0] <= horizon:
        now, kind, _, job = heapq.heappop(events)
        if kind == _PASS or job is None:
            scheduler.look(now)
            heapq.heappush(events, (now + pace.interval, _PASS, next(order), None))
        elif kind == _ARRIVAL:
            scheduler.add(job)
        else:
            free, open_jobs = free + 1, open_jobs - 1
            scheduler.end(job)
        if events and events[0][0] == now:
            continue  # all that happens in this moment happens before a worker chooses
        while free:
            taken, spent = scheduler.take(now)
            if taken is None:
                break
            free -= 1
            taken.started = now + spent
            taken.ended = taken.started + taken.work
            heapq.heappush(events, (taken.ended + pace.overhead, _END, next(order), taken))
    return Result(jobs, horizon, scheduler.lifts)
