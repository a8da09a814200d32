"""Who goes first: the level of a task among the ten that a work queue has, from what its tenant has outstanding. Pure.

The broker serves levels strictly, first come first served within one, and never changes a waiting message's level. So a
level is decided at the submit; ``shared.domain.lifting`` decides when a task is published again at a higher one.
Work is counted in predicted GPU-seconds on one work queue, because its workers are what tenants contend for.
The figures behind the default parameters: docs/fairness.md.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass, field, replace
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from shared.domain.task import Lane

if TYPE_CHECKING:
    from collections.abc import Mapping

HIGHEST_LEVEL: Final = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneTerms:
    """What a lane gives its tenants.

    ``weight`` is for plans that name none. ``head_start`` is in quanta: how much work of its own a tenant may have
    outstanding before it counts; negative is a handicap. ``patience`` is the share of its ``start_within`` that a task
    waits before it may be lifted.
    """

    weight: float
    head_start: float
    patience: float

    def __post_init__(self) -> None:
        if not (0 < self.weight < math.inf and math.isfinite(self.head_start) and 0 <= self.patience <= 1):
            message = f"not the terms of a lane: {self}"
            raise ValueError(message)


# A head start puts a VIP's work above everybody's until head start x weight is outstanding: 8 usual jobs, which is how
# long a burst of a VIP can hold up others. Beyond that a VIP has its weight.
DEFAULT_LANES: Final[Mapping[Lane, LaneTerms]] = MappingProxyType(
    {
        Lane.VIP: LaneTerms(weight=4.0, head_start=2.0, patience=0.0),
        Lane.STANDARD: LaneTerms(weight=1.0, head_start=0.0, patience=0.0),
        Lane.BATCH: LaneTerms(weight=0.5, head_start=-8.0, patience=0.5),
    }
)

# Positions, in quanta, at which the level falls by one. Doubling tells a backlog of 20 from one of 40 and of 200; equal
# steps would put everything beyond nine jobs on one level. The first step is at zero: only a head start is below it.
DOUBLING_STEPS: Final = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class FairSharePolicy:
    """The parameters. ``quantum_seconds``: what the queue's workers do while a usual job runs, see ``on_workers``.

    A task is lifted by ``least_rise`` levels or more, or to its tenant's turn: each lift leaves a copy to be discarded.
    """

    quantum_seconds: float = 10.0
    lanes: Mapping[Lane, LaneTerms] = field(default_factory=lambda: DEFAULT_LANES)
    steps: tuple[float, ...] = DOUBLING_STEPS
    least_rise: int = 3

    def __post_init__(self) -> None:
        if not 0 < self.quantum_seconds < math.inf:
            message = f"quantum_seconds must be positive and finite, not {self.quantum_seconds}"
            raise ValueError(message)
        if len(self.steps) != HIGHEST_LEVEL or any(a >= b for a, b in pairwise(self.steps)):
            message = f"steps must be {HIGHEST_LEVEL} ascending positions, not {self.steps}"
            raise ValueError(message)
        if set(self.lanes) != set(Lane):
            message = f"every lane needs terms, given are {sorted(self.lanes)}"
            raise ValueError(message)
        if not 1 <= self.least_rise <= HIGHEST_LEVEL:
            message = f"least_rise must be 1 to {HIGHEST_LEVEL}, not {self.least_rise}"
            raise ValueError(message)

    def share(self, lane: Lane, weight: float | None = None) -> Share:
        """A tenant's share; the lane's weight where its plan names none."""
        return Share(lane, self.lanes[lane].weight if weight is None else weight)

    def on_workers(self, workers: int) -> FairSharePolicy:
        """The policy of a queue with so many workers, where this one is that of a single worker.

        Levels shall tell apart what can be told apart before the lines have moved on: one job on each worker.
        """
        return replace(self, quantum_seconds=self.quantum_seconds * max(workers, 1))

    def level_at(self, position_seconds: float) -> int:
        """The level at a position in the line, from 9 (first) to 0."""
        return HIGHEST_LEVEL - bisect_right(self.steps, position_seconds / self.quantum_seconds)


@dataclass(frozen=True, slots=True)
class Share:
    """What a tenant's plan entitles it to, beside what the others' entitle them to."""

    lane: Lane
    weight: float

    def __post_init__(self) -> None:
        if not 0 < self.weight < math.inf:
            message = f"a weight must be positive and finite, not {self.weight}"
            raise ValueError(message)


def falls_at(policy: FairSharePolicy, share: Share) -> tuple[float, ...]:
    """At which predicted GPU-seconds outstanding a tenant's next task stands one level lower, from level 9 down."""
    head_start = policy.lanes[share.lane].head_start
    return tuple((step + head_start) * policy.quantum_seconds * share.weight for step in policy.steps)


def level(policy: FairSharePolicy, share: Share, outstanding_seconds: float) -> int:
    """The level to publish a new task at, 0 to 9.

    ``outstanding_seconds``: predicted GPU-seconds of the tenant's tasks on this queue that have not ended, without the
    task itself. A negative figure of a ledger that is being repaired counts as zero.
    """
    return HIGHEST_LEVEL - bisect_right(falls_at(policy, share), max(outstanding_seconds, 0.0))
