"""The targets of fair share, held on the simulation. On a real broker: ``make bench ONLY=fairness``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from bench.fairness.compared import OURS, REFERENCE, SCHEDULERS, scenario_named, simulated, varied
from bench.fairness.jobs import Result, jain
from bench.fairness.ledger import POLICY, Ledger, Pace
from bench.fairness.scenarios import SCENARIOS, Source, make
from bench.fairness.simulation import STALE_SECONDS, Fifo, Levels, simulate
from shared.domain.task import Lane

if TYPE_CHECKING:
    from bench.fairness.scenarios import Scenario

pytestmark = pytest.mark.exhaustive

NAMES: Final = [scenario.name for scenario in SCENARIOS]


def figure(name: str, key: str, scheduler: str = OURS) -> float:
    scenario = scenario_named(name)
    return scenario.figures(simulated(scenario, scheduler))[key]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=NAMES)
def test_every_target_of_a_scenario_is_met(scenario: Scenario) -> None:
    figures = scenario.figures(simulated(scenario))
    assert {name: figures[name] for name, target in scenario.targets.items() if not target.met(figures[name])} == {}


@pytest.mark.parametrize("scenario", SCENARIOS, ids=NAMES)
def test_a_task_leaves_fewer_than_two_copies(scenario: Scenario) -> None:
    assert simulated(scenario).copies_each < 2


@pytest.mark.parametrize("name", ["two_floods", "weighted_floods", "steady_floods", "video_beside_images"])
def test_floods_share_as_under_the_optimum_that_knows_everything(name: str) -> None:
    assert figure(name, "jain") == pytest.approx(figure(name, "jain", REFERENCE), abs=0.005)


@pytest.mark.parametrize(
    ("name", "key", "scheduler"),
    [
        ("flooder", "light_p95", "fifo"),
        ("two_floods", "jain", "equal_steps_ageing"),
        ("vip_in_crowd", "vip_p95", "equal_steps_ageing"),
        ("vip_flood", "standard_lacks_jobs", "strict_lanes"),
        ("starved", "backlog_worst_fifth", "frozen"),
    ],
)
def test_the_targets_are_missed_by_what_was_not_chosen(name: str, key: str, scheduler: str) -> None:
    assert not scenario_named(name).targets[key].met(figure(name, key, scheduler))


@pytest.mark.parametrize(("what", "value"), [("quantum", 0.125), ("quantum", 8.0), ("error", 1.0), ("workers", 4)])
def test_the_targets_hold_with_a_parameter_far_off(what: str, value: float) -> None:
    figures = varied(what, value)
    assert figures["flooder.light_p95"] <= 2.0
    assert figures["two_floods.jain"] >= 0.95
    assert figures["vip_in_flood.vip_p95"] <= 1.5
    assert figures["vip_flood.standard_of_share"] >= 0.99
    assert figures["starved.backlog_of_share"] >= 0.8


def test_no_scheduler_idles_while_something_waits() -> None:
    scenario = scenario_named("two_floods")
    for name in SCHEDULERS:
        result = simulated(scenario, name)
        stale = result.lifts * STALE_SECONDS
        assert result.served_to_all(0, scenario.horizon) == pytest.approx(300, abs=1 + stale)


def test_the_simulated_broker_serves_strictly_by_level_and_in_order_within_one() -> None:
    source = Source(10.0, error=0.0)
    low, high, later = source.one("a", 0.0), source.one("b", 0.0), source.one("a", 0.0)
    low.forced_level, high.forced_level, later.forced_level = 1, 5, 1
    simulate(source.jobs, Levels(Ledger(POLICY, Pace(interval=100.0))), Pace(interval=100.0), 10.0)
    assert [job.started for job in (high, low, later)] == [0.0, 1.0, 2.0]


def test_a_copy_of_a_started_task_costs_a_look_and_is_not_run_again() -> None:
    source = Source(10.0, error=0.0)
    jobs = [*source.burst("a", 3), *source.burst("b", 3)]
    for job in jobs:
        job.forced_level = 0
    result = simulate(jobs, Levels(Ledger(POLICY, Pace(interval=0.5))), Pace(interval=0.5), 20.0)
    assert result.lifts > 0
    assert result.served_to_all(0, 20.0) == pytest.approx(6.0)
    last = max(job.ended or 0.0 for job in jobs)
    assert 6.0 <= last <= 6.0 + STALE_SECONDS * result.lifts


def test_the_jobs_of_a_scenario_are_the_same_each_time() -> None:
    scenario = scenario_named("vip_flood")
    assert [(job.name, job.arrives, job.predicted) for job in make(scenario)] == [
        (job.name, job.arrives, job.predicted) for job in make(scenario)
    ]


def test_what_has_not_started_counts_as_waiting_until_the_horizon() -> None:
    source = Source(10.0)
    source.burst("a", 2, Lane.BATCH, work=8.0)
    result = simulate(source.jobs, Fifo(), Pace(), 5.0)
    assert result.waits("a".__eq__) == [0.0, 5.0]


def test_jain_s_index_knows_its_ends() -> None:
    assert jain([3.0, 3.0, 3.0]) == pytest.approx(1.0)
    assert jain([1.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)
    assert jain([0.0, 0.0]) == 1.0
    assert Result([], 1.0).copies_each == 0.0


def test_on_two_levels_first_tasks_pass_a_flood_and_a_vip_passes_backlogs() -> None:
    assert figure("flooder", "light_p95", "two_levels") <= 2
    # It waits behind one task of each line that is about to be served; without levels, for all of them.
    assert figure("vip_in_flood", "vip_p95", "two_levels") <= 8
    assert figure("vip_in_flood", "vip_p95", "no_levels") > 100


def test_on_two_levels_nobody_s_share_is_turned_round() -> None:
    assert figure("vip_flood", "standard_of_share", "two_levels") >= 1
    assert figure("starved", "backlog_worst_fifth", "two_levels") >= 0.8
    for floods in ("two_floods", "weighted_floods", "steady_floods"):
        assert figure(floods, "jain", "two_levels") >= 0.85
