from __future__ import annotations

import math
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.priority import (
    DEFAULT_LANES,
    DOUBLING_STEPS,
    HIGHEST_LEVEL,
    FairSharePolicy,
    LaneTerms,
    Share,
    level,
)
from shared.domain.task import Lane

POLICY: Final = FairSharePolicy(quantum_seconds=10.0)
LANES: Final = st.sampled_from(list(Lane))
WEIGHTS: Final = st.floats(0.01, 100)
WORK: Final = st.floats(0, 1e6)
SHARES: Final = st.builds(Share, LANES, WEIGHTS)
POLICIES: Final = st.builds(lambda quantum: FairSharePolicy(quantum_seconds=quantum), st.floats(0.01, 1000))
BY_RANK: Final = (Lane.BATCH, Lane.STANDARD, Lane.VIP)


@given(POLICIES, SHARES, st.floats(allow_nan=True))
def test_a_level_is_one_of_the_queue_s_ten_whatever_the_ledger_says(
    policy: FairSharePolicy, share: Share, outstanding: float
) -> None:
    assert 0 <= level(policy, share, outstanding) <= HIGHEST_LEVEL


@given(POLICIES, SHARES, WORK, WORK)
def test_more_outstanding_work_never_raises_a_task(
    policy: FairSharePolicy, share: Share, less: float, more: float
) -> None:
    less, more = sorted((less, more))
    assert level(policy, share, more) <= level(policy, share, less)


@given(POLICIES, LANES, WEIGHTS, WEIGHTS, WORK)
def test_more_weight_never_lowers_a_task(
    policy: FairSharePolicy, lane: Lane, light: float, heavy: float, outstanding: float
) -> None:
    light, heavy = sorted((light, heavy))
    assert level(policy, Share(lane, light), outstanding) <= level(policy, Share(lane, heavy), outstanding)


@given(POLICIES, WEIGHTS, WORK)
def test_a_better_lane_never_lowers_a_task(policy: FairSharePolicy, weight: float, outstanding: float) -> None:
    levels = [level(policy, Share(lane, weight), outstanding) for lane in BY_RANK]
    assert levels == sorted(levels)


@given(POLICIES, WORK, st.floats(0.1, 10))
def test_only_the_ratio_of_work_to_quantum_counts(policy: FairSharePolicy, outstanding: float, factor: float) -> None:
    scaled = FairSharePolicy(quantum_seconds=policy.quantum_seconds * factor)
    share = policy.share(Lane.STANDARD)
    levels = {level(policy, share, outstanding), level(scaled, share, outstanding * factor)}
    # A position on a step itself may be rounded to either side.
    assert max(levels) - min(levels) <= 1


@given(POLICIES, SHARES, st.floats(-1e6, 0))
def test_a_negative_ledger_counts_as_none_outstanding(
    policy: FairSharePolicy, share: Share, outstanding: float
) -> None:
    assert level(policy, share, outstanding) == level(policy, share, 0)


@given(POLICIES)
def test_the_first_task_of_a_vip_is_above_every_task_of_the_other_lanes(policy: FairSharePolicy) -> None:
    others = [level(policy, policy.share(lane), 0) for lane in (Lane.STANDARD, Lane.BATCH)]
    assert level(policy, policy.share(Lane.VIP), 0) > max(others)


@given(POLICIES, st.integers(1, 500))
def test_a_vip_flood_sinks_below_a_light_standard_tenant(policy: FairSharePolicy, jobs: int) -> None:
    vip = policy.share(Lane.VIP)
    flood = level(policy, vip, (12.01 + jobs) * policy.quantum_seconds)
    assert flood < level(policy, policy.share(Lane.STANDARD), 0)


@given(POLICIES, st.integers(2, 1000))
def test_a_flooder_s_later_tasks_are_below_a_light_tenant_s_first(policy: FairSharePolicy, jobs: int) -> None:
    share = policy.share(Lane.STANDARD)
    assert level(policy, share, jobs * policy.quantum_seconds) < level(policy, share, 0)


@pytest.mark.parametrize(
    ("lane", "jobs", "expected"),
    [
        (Lane.VIP, 0, 9),
        (Lane.VIP, 7.9, 9),
        (Lane.VIP, 8, 8),
        (Lane.VIP, 12, 7),
        (Lane.STANDARD, 0, 8),
        (Lane.STANDARD, 1, 7),
        (Lane.STANDARD, 3, 6),
        (Lane.STANDARD, 100, 1),
        (Lane.STANDARD, 200, 0),
        (Lane.BATCH, 0, 4),
        (Lane.BATCH, 60, 0),
    ],
)
def test_the_levels_are_those_of_the_documents(lane: Lane, jobs: float, expected: int) -> None:
    assert level(POLICY, POLICY.share(lane), jobs * POLICY.quantum_seconds) == expected


def test_a_plan_s_weight_goes_before_its_lane_s() -> None:
    assert POLICY.share(Lane.STANDARD, 3.0) == Share(Lane.STANDARD, 3.0)
    assert POLICY.share(Lane.STANDARD) == Share(Lane.STANDARD, 1.0)


@pytest.mark.parametrize("weight", [0.0, -1.0, math.inf, math.nan])
def test_a_weight_that_would_make_nonsense_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="weight"):
        Share(Lane.STANDARD, weight)
    with pytest.raises(ValueError, match="terms of a lane"):
        LaneTerms(weight=weight, head_start=0, patience=0)


@pytest.mark.parametrize("quantum", [0.0, -1.0, math.inf, math.nan])
def test_a_quantum_that_would_make_nonsense_is_refused(quantum: float) -> None:
    with pytest.raises(ValueError, match="quantum_seconds"):
        FairSharePolicy(quantum_seconds=quantum)


def test_a_policy_that_is_not_whole_is_refused() -> None:
    with pytest.raises(ValueError, match="ascending"):
        FairSharePolicy(steps=DOUBLING_STEPS[:-1])
    with pytest.raises(ValueError, match="ascending"):
        FairSharePolicy(steps=(*DOUBLING_STEPS[:-1], 1.0))
    with pytest.raises(ValueError, match="every lane"):
        FairSharePolicy(lanes={Lane.VIP: DEFAULT_LANES[Lane.VIP]})
    with pytest.raises(ValueError, match="least_rise"):
        FairSharePolicy(least_rise=0)


@given(st.integers(1, 64), st.integers(0, 300))
def test_a_backlog_counts_by_the_time_that_all_workers_need_for_it(workers: int, jobs_each: int) -> None:
    share = POLICY.share(Lane.STANDARD)
    work = jobs_each * POLICY.quantum_seconds
    assert level(POLICY.on_workers(workers), share, workers * work) == level(POLICY, share, work)
    assert POLICY.on_workers(0) == POLICY
