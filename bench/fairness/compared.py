"""Every scheduler on every scenario, and ours with other parameters."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from bench.fairness.ledger import POLICY, AgeingLedger, FrozenLedger, Ledger, Pace
from bench.fairness.scenarios import PREDICTION_ERROR, SCENARIOS, Scenario, make
from bench.fairness.simulation import Fifo, Lanes, Levels, Scheduler, StartTimeFair, simulate
from bench.fairness.two_levels import TwoLevels
from shared.domain.priority import FairSharePolicy

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.fairness.jobs import Result

OURS: Final = "fair_share"
REFERENCE: Final = "optimum"
_EQUAL_STEPS: Final = FairSharePolicy(quantum_seconds=1.0, steps=tuple(float(step) for step in range(1, 10)))

# The design began with equal steps and ageing at half of start_within; "frozen" is ours without lifting.
SCHEDULERS: Final[dict[str, Callable[[Pace], Scheduler]]] = {
    "fifo": lambda _: Fifo(),
    "strict_lanes": lambda _: Lanes(),
    "equal_steps": lambda pace: Levels(FrozenLedger(_EQUAL_STEPS, pace)),
    "equal_steps_ageing": lambda pace: Levels(AgeingLedger(_EQUAL_STEPS, pace)),
    "frozen": lambda pace: Levels(FrozenLedger(POLICY, pace)),
    OURS: lambda pace: Levels(Ledger(POLICY, pace)),
    REFERENCE: lambda _: StartTimeFair(),
}


# Ours where work queues are quorum queues: of RabbitMQ 4.0 to 4.2, and of those before. From 4.3 on it is as above.
ON_QUORUM: Final[dict[str, Callable[[Pace], Scheduler]]] = {
    "two_levels": lambda pace: TwoLevels(Ledger(POLICY, pace)),
    "no_levels": lambda _: Fifo(),
}


def simulated(scenario: Scenario, scheduler: str = OURS, horizon: float | None = None, overhead: float = 0.0) -> Result:
    """A scenario under one of the schedulers."""
    horizon, pace = horizon or scenario.horizon, replace(scenario.pace, overhead=overhead)
    return simulate(make(scenario, horizon), (SCHEDULERS | ON_QUORUM)[scheduler](pace), pace, horizon)


def scenario_named(name: str) -> Scenario:
    """One of them."""
    return next(scenario for scenario in SCENARIOS if scenario.name == name)


# What is off, and by how much: the quantum in what it should be, the time between two passes in job lengths, the sigma
# of the predictions' error, the number of workers (with as many times the work).
VARIATIONS: Final[dict[str, tuple[float, ...]]] = {
    "quantum": (0.125, 0.5, 1.0, 2.0, 8.0),
    "interval": (1.0, 5.0, 20.0, 60.0),
    "error": (0.0, 0.15, 0.5, 1.0),
    "workers": (1, 4, 16),
}
_WATCHED: Final = (
    ("flooder", "light_p95"),
    ("two_floods", "jain"),
    ("vip_in_flood", "vip_p95"),
    ("vip_flood", "standard_of_share"),
    ("starved", "backlog_of_share"),
)


def varied(what: str, value: float) -> dict[str, float]:
    """The figures that count, and the copies for each task, with one parameter changed."""
    workers = int(value) if what == "workers" else 1
    pace = Pace(workers=workers, interval=value if what == "interval" else 5.0)
    policy = FairSharePolicy(quantum_seconds=value) if what == "quantum" else POLICY
    error = value if what == "error" else PREDICTION_ERROR
    figures, copies = {}, 0.0
    for name, figure in _WATCHED:
        scenario = scenario_named(name)
        jobs = make(scenario, error=error, scale=workers)
        result = simulate(jobs, Levels(Ledger(policy, pace)), pace, scenario.horizon)
        figures[f"{name}.{figure}"] = scenario.figures(result)[figure]
        copies = max(copies, result.copies_each)
    return {**figures, "most_copies": copies}
