from __future__ import annotations

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.prediction import (
    Footprint,
    MemoryTerms,
    SecondsTerms,
    Shape,
    Sides,
    TierPrice,
    estimate,
    first_fitting,
    fits,
    footprint,
    largest_fitting,
    longest_admissible_seconds,
    memory_features,
    memory_of,
    run_budget_seconds,
    seconds_features,
    seconds_of,
)

AMOUNTS = st.floats(0, 1e4, allow_nan=False)
SECONDS = st.builds(SecondsTerms, *([AMOUNTS] * 7))
MEMORY = st.builds(MemoryTerms, *([AMOUNTS] * 3))
SIDE = st.integers(1, 256).map(lambda units: units * 16)
SHAPES = st.builds(
    Shape, SIDE, SIDE, st.integers(1, 200), st.integers(1, 1000), st.integers(1, 16), st.sampled_from([1, 2])
)
SQUARE: Final = Shape(1024, 1024, 1, 20, 1, 1)
RESIDENT: Final = TierPrice("resident", SecondsTerms(row_megapixel_step=1.0), MemoryTerms(base=8000, megapixel=4000))
TILED: Final = TierPrice("tiled", SecondsTerms(row_megapixel_step=1.5), MemoryTerms(base=8000, megapixel=1000))
LADDER: Final = (RESIDENT, TILED)


@given(SECONDS, MEMORY, SHAPES)
def test_a_cost_is_the_sum_of_its_terms_and_never_negative(
    seconds: SecondsTerms, memory: MemoryTerms, shape: Shape
) -> None:
    by_terms = sum(a * b for a, b in zip(seconds, seconds_features(shape), strict=True))
    assert seconds_of(seconds, shape) == pytest.approx(by_terms)
    assert seconds_of(seconds, shape) >= 0
    assert memory_of(memory, shape) == pytest.approx(
        sum(a * b for a, b in zip(memory, memory_features(shape), strict=True))
    )


@given(SECONDS, MEMORY, SHAPES, st.sampled_from(Shape._fields), st.integers(1, 64))
def test_more_of_anything_never_costs_less(
    seconds: SecondsTerms, memory: MemoryTerms, shape: Shape, name: str, more: int
) -> None:
    larger = shape._replace(**{name: getattr(shape, name) + more})
    assert seconds_of(seconds, larger) >= seconds_of(seconds, shape)
    assert memory_of(memory, larger) >= memory_of(memory, shape)
    assert footprint(larger).covers(footprint(shape))


def test_the_first_tier_that_fits_is_taken() -> None:
    assert first_fitting(LADDER, SQUARE, 16000) == estimate(RESIDENT, SQUARE)
    assert first_fitting(LADDER, SQUARE, 10000) == estimate(TILED, SQUARE)
    assert first_fitting(LADDER, SQUARE, 9000) is None


def test_everything_fits_where_the_capacity_is_not_known() -> None:
    assert first_fitting(LADDER, SQUARE._replace(width=100_000), None) is not None


def test_a_tier_that_met_oom_is_skipped_for_that_shape_and_all_larger_ones_and_no_smaller_one() -> None:
    ladder = (RESIDENT._replace(met_oom=(footprint(SQUARE),)), TILED)

    def tier(shape: Shape) -> str | None:
        expected = first_fitting(ladder, shape, None)
        return None if expected is None else expected.tier

    assert tier(SQUARE) == "tiled"
    assert tier(SQUARE._replace(width=2048)) == tier(SQUARE._replace(pictures=2)) == "tiled"
    assert tier(SQUARE._replace(steps=1)) == "tiled"  # steps take no memory
    assert tier(SQUARE._replace(width=1008)) == "resident"


@given(MEMORY, SHAPES, AMOUNTS)
def test_the_largest_size_fits_and_the_next_one_does_not(memory: MemoryTerms, shape: Shape, capacity: float) -> None:
    ladder = (TierPrice("resident", SecondsTerms(), memory),)
    sides = Sides(multiple=16, least=16)
    largest = largest_fitting(ladder, shape, capacity, sides)
    if largest is None:
        # Already the smallest picture of this ratio is too large.
        scale = max(shape.width, shape.height) / min(shape.width, shape.height)
        smallest = shape._replace(width=16, height=16 * max(1, round(scale)))
        assert scale > 1 or not fits(ladder, smallest, capacity)
        return
    width, height = largest
    assert (width % 16, height % 16) == (0, 0)
    assert fits(ladder, shape._replace(width=width, height=height), capacity)
    assert width <= shape.width
    assert height <= shape.height
    assert abs(width * shape.height - height * shape.width) <= 16 * (shape.width + shape.height)
    if shape.width == shape.height and width < shape.width:
        assert not fits(ladder, shape._replace(width=width + 16, height=height + 16), capacity)


def test_what_fits_is_its_own_largest_size() -> None:
    wide = Shape(768, 512, 1, 20, 1, 1)
    assert largest_fitting(LADDER, wide, 16000, Sides(16, 64)) == (768, 512)


def test_no_size_is_named_below_the_least_side() -> None:
    assert largest_fitting(LADDER, SQUARE, 8010, Sides(16, 256)) is None
    assert largest_fitting(LADDER, SQUARE, 8100, Sides(16, 256)) == (304, 304)


def test_frames_are_kept_when_a_smaller_size_is_sought() -> None:
    video = SQUARE._replace(frames=10)
    assert largest_fitting((TILED,), video, 9000, Sides(16, 16)) == (304, 304)


def test_a_footprint_covers_another_only_in_both_measures() -> None:
    assert Footprint(2, 2).covers(Footprint(2, 1))
    assert not Footprint(2, 1).covers(Footprint(1, 2))


def test_a_run_has_ten_times_its_seconds_and_two_minutes_at_least() -> None:
    assert (run_budget_seconds(0), run_budget_seconds(60)) == (120, 600)


@given(st.floats(120, 72000), st.floats(1, 1e6), st.floats(0, 1e6))
def test_an_admissible_task_can_finish_and_its_run_ends_in_time(
    max_run: float, finish_within: float, predicted: float
) -> None:
    admissible = predicted <= longest_admissible_seconds(max_run, finish_within)
    longest_run = min(run_budget_seconds(predicted), finish_within)
    assert admissible == (predicted <= finish_within and longest_run <= max_run * (1 + 1e-12))
