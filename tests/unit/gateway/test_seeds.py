from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.gateway.seeds import drawn_seed
from services.gateway.usecases import LARGEST_DRAWN_SEED
from shared.ids import new_task_id


@given(task_id=st.uuids().map(str), most=st.integers(0, LARGEST_DRAWN_SEED))
def test_a_seed_is_in_its_range_and_the_same_for_the_same_task(task_id: str, most: int) -> None:
    seed = drawn_seed(task_id, most)
    assert 0 <= seed <= most
    assert drawn_seed(task_id, most) == seed


def test_tasks_that_are_made_at_once_get_seeds_from_the_whole_range() -> None:
    seeds = [drawn_seed(new_task_id(), LARGEST_DRAWN_SEED) for _ in range(2000)]
    assert len(set(seeds)) == 2000
    eighths = [seed * 8 // (LARGEST_DRAWN_SEED + 1) for seed in seeds]
    # 250 are expected in each eighth; ten standard deviations are 148.
    assert all(100 < eighths.count(eighth) < 400 for eighth in range(8))


def test_the_seed_of_a_task_is_the_same_in_every_version() -> None:
    assert drawn_seed("0192f0c1-2b3c-7d4e-8f50-123456789abc", LARGEST_DRAWN_SEED) == 3_854_557_691_754_686
