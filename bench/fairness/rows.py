"""The figures as rows: simulated beside the optimum, and from the real broker beside the simulation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bench.fairness.broker import on_broker
from bench.fairness.compared import ON_QUORUM, OURS, REFERENCE, SCHEDULERS, VARIATIONS, simulated, varied
from bench.fairness.scenarios import SCENARIOS, make
from bench.report import Row

if TYPE_CHECKING:
    from bench.fairness.jobs import Result
    from bench.fairness.scenarios import Scenario, Target
    from bench.servers import Bench

JOB_SECONDS: Final = 0.04
QUICK_JOB_SECONDS: Final = 0.035


def run(bench: Bench, *, quick: bool) -> list[Row]:
    """Simulated, then on the stack's broker in a vhost of its own."""
    live = on_the_broker(bench.bench_vhost(), quick=quick)
    if not quick:
        from bench.fairness.plots import draw  # noqa: PLC0415 - matplotlib takes a second to load

        print(f"bench: {', '.join(map(str, draw(live)))}")
    extra = [] if quick else [*quorum_rows(), *sensitivity_rows()]
    return [*simulation_rows(), *extra, *live_rows(live)]


def simulation_rows() -> list[Row]:
    """Ours beside the optimum; what the others reach is in the detail."""
    rows = []
    for scenario in SCENARIOS:
        results = {name: simulated(scenario, name) for name in SCHEDULERS}
        figures = {name: scenario.figures(result) for name, result in results.items()}
        for figure, value in figures[OURS].items():
            others = ", ".join(f"{name} {figures[name][figure]:.2f}" for name in SCHEDULERS if name != OURS)
            name = f"fairness.{scenario.name}.{figure}"
            rows.append(_row(name, value, figures[REFERENCE][figure], scenario.targets.get(figure), others))
        rows.append(_row(f"fairness.{scenario.name}.copies_each", results[OURS].copies_each, None, None, ""))
    return rows


def quorum_rows() -> list[Row]:
    """Ours on quorum queues, beside what it reaches on strict levels."""
    rows = []
    for scenario in SCENARIOS:
        strict = scenario.figures(simulated(scenario))
        for which in ON_QUORUM:
            figures = scenario.figures(simulated(scenario, which))
            rows += [
                _row(f"fairness.{which}.{scenario.name}.{figure}", figures[figure], strict[figure], None, "")
                for figure in scenario.targets
            ]
    return rows


def sensitivity_rows() -> list[Row]:
    """The same with one parameter off."""
    return [
        _row(f"fairness.{what}={value:g}.{name}", figure, None, None, "")
        for what, values in VARIATIONS.items()
        for value in values
        for name, figure in varied(what, value).items()
    ]


def on_the_broker(url: str, *, quick: bool) -> dict[str, Result]:
    """Results by scenario."""
    job_seconds = QUICK_JOB_SECONDS if quick else JOB_SECONDS
    results = {}
    for scenario in SCENARIOS:
        horizon = scenario.quick if quick else scenario.live
        if horizon:
            print(f"bench: fairness on the broker: {scenario.name}", flush=True)
            results[scenario.name] = on_broker(url, make(scenario, horizon), scenario.pace, horizon, job_seconds)
    return results


def live_rows(live: dict[str, Result]) -> list[Row]:
    """What the broker did, beside the simulation over the same time."""
    rows = []
    for scenario in SCENARIOS:
        if scenario.name in live:
            rows += _live_rows_of(scenario, live[scenario.name])
    return rows


def _live_rows_of(scenario: Scenario, result: Result) -> list[Row]:
    targets = scenario.targets if scenario.live_targets is None else scenario.live_targets
    expected = scenario.figures(simulated(scenario, OURS, result.horizon, result.overhead))
    return [
        _row(
            f"fairness.broker.{scenario.name}.{figure}",
            value,
            expected[figure],
            targets.get(figure),
            f"baseline: simulation with {result.overhead:.3f} between jobs",
        )
        for figure, value in scenario.figures(result).items()
    ]


def _row(name: str, value: float, baseline: float | None, target: Target | None, detail: str) -> Row:
    unit = "jobs" if name.endswith(("_p50", "_p95", "_jobs")) else ""
    return Row(
        name=name,
        value=round(value, 4),
        unit=unit,
        baseline=None if baseline is None else round(baseline, 4),
        target="" if target is None else str(target),
        ok=None if target is None else target.met(value),
        detail=detail,
    )
