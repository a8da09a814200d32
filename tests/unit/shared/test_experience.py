from __future__ import annotations

import json
import random
from itertools import pairwise
from statistics import median
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.domain.experience import Experience
from shared.domain.prediction import (
    MemoryTerms,
    SecondsTerms,
    Shape,
    TierPrice,
    footprint,
    memory_of,
    seconds_of,
)

TRUE_SECONDS: Final = SecondsTerms(0.3, 0.2, 0.5, 0.02, 0.0, 1.1, 0.4)
TRUE_MEMORY: Final = MemoryTerms(base=2000, megapixel=300, row_megapixel=100)
# The card knows less terms than the truth has, and is wrong about those.
CARD: Final = (
    TierPrice("resident", SecondsTerms(picture=0.5, row_megapixel_step=4.0), MemoryTerms(1000, 900)),
    TierPrice("tiled", SecondsTerms(picture=1.0, row_megapixel_step=8.0), MemoryTerms(800, 300)),
)
USUAL: Final = Shape(1024, 1024, 1, 28, 1, 2)


def drawn(source: random.Random) -> Shape:
    return Shape(
        64 * source.randint(4, 24),
        64 * source.randint(4, 24),
        1,
        source.choice([4, 8, 20, 28, 50]),
        source.choice([1, 1, 1, 2, 4]),
        source.choice([1, 2]),
    )


def taught(seed: int, tasks: int, noise: float = 0.08, speed: float = 1.0) -> tuple[Experience, random.Random]:
    source, experience = random.Random(seed), Experience(CARD)  # noqa: S311 - repeatable noise
    for _ in range(tasks):
        shape = drawn(source)
        seconds = speed * seconds_of(TRUE_SECONDS, shape) * source.lognormvariate(0, noise)
        assert experience.observe("resident", shape, seconds, memory_of(TRUE_MEMORY, shape))
    return experience, source


def resident(experience: Experience) -> TierPrice:
    return experience.prices()[0]


def test_before_anything_was_seen_the_card_speaks() -> None:
    assert Experience(CARD).prices() == CARD


@pytest.mark.parametrize("tasks", [30, 100])
def test_the_p95_covers_nine_tenths_of_what_comes_next_and_is_not_far_above_it(tasks: int) -> None:
    covered, excess, count = 0, [], 0
    for seed in range(6):
        experience, source = taught(seed, tasks)
        for _ in range(100):
            shape = drawn(source)
            seconds = seconds_of(TRUE_SECONDS, shape) * source.lognormvariate(0, 0.08)
            predicted = seconds_of(resident(experience).seconds, shape)
            covered, count = covered + (seconds <= predicted), count + 1
            excess.append(predicted / seconds - 1)
    assert covered / count >= 0.9
    assert median(excess) < 0.3


def test_memory_is_learnt_to_a_few_percent_for_shapes_that_were_never_seen() -> None:
    experience, source = taught(1, 40)
    for _ in range(50):
        shape = drawn(source)
        true = memory_of(TRUE_MEMORY, shape)
        assert true * 0.98 <= memory_of(resident(experience).memory, shape) <= true * 1.05


def test_from_one_shape_alone_follows_the_scaled_card() -> None:
    experience = Experience(CARD)
    seconds = seconds_of(CARD[0].seconds, USUAL) / 4
    for _ in range(20):
        experience.observe("resident", USUAL, seconds, None)
    other = Shape(512, 512, 1, 50, 1, 1)
    assert seconds_of(resident(experience).seconds, USUAL) == pytest.approx(seconds)
    assert seconds_of(resident(experience).seconds, other) == pytest.approx(seconds_of(CARD[0].seconds, other) / 4)


def test_the_way_from_the_card_to_what_was_learnt_is_gradual() -> None:
    experience, far = Experience(CARD), []
    true = seconds_of(CARD[0].seconds, USUAL) / 4
    for _ in range(14):
        far.append(seconds_of(resident(experience).seconds, USUAL) / true)
        experience.observe("resident", USUAL, true, None)
    assert far[0] == pytest.approx(4)
    assert far[-1] == pytest.approx(1)
    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(far))


@pytest.mark.parametrize("factor", [100.0, 0.01])
def test_one_strange_run_changes_little(factor: float) -> None:
    experience, _ = taught(2, 25)
    before = seconds_of(resident(experience).seconds, USUAL)
    experience.observe("resident", USUAL, seconds_of(TRUE_SECONDS, USUAL) * factor, None)
    assert seconds_of(resident(experience).seconds, USUAL) == pytest.approx(before, rel=0.25)


def test_a_device_that_became_slower_is_believed_after_some_tasks() -> None:
    experience, source = taught(3, 100)
    for _ in range(100):
        shape = drawn(source)
        experience.observe("resident", shape, 3 * seconds_of(TRUE_SECONDS, shape), None)
    ratio = seconds_of(resident(experience).seconds, USUAL) / (3 * seconds_of(TRUE_SECONDS, USUAL))
    assert 0.9 < ratio < 1.4


def test_a_flood_of_one_shape_does_not_push_out_what_is_known_of_others() -> None:
    experience, _ = taught(4, 60)
    rare = Shape(1536, 1536, 1, 50, 4, 2)
    before = seconds_of(resident(experience).seconds, rare)
    for _ in range(300):
        experience.observe("resident", USUAL, seconds_of(TRUE_SECONDS, USUAL), None)
    assert seconds_of(resident(experience).seconds, rare) == pytest.approx(before, rel=0.25)


def test_what_one_tier_taught_of_the_devices_speed_holds_for_the_others() -> None:
    experience = Experience(CARD)
    for _ in range(20):
        experience.observe("resident", USUAL, seconds_of(CARD[0].seconds, USUAL) / 4, None)
    tiled = experience.prices()[1]
    assert seconds_of(tiled.seconds, USUAL) == pytest.approx(seconds_of(CARD[1].seconds, USUAL) / 4)
    assert tiled.memory == CARD[1].memory


SIDES = st.integers(1, 64).map(lambda units: units * 16)
SHAPES = st.builds(
    Shape, SIDES, SIDES, st.integers(1, 9), st.integers(1, 99), st.integers(1, 4), st.sampled_from([1, 2])
)
SEEN = st.lists(
    st.tuples(SHAPES, st.floats(1e-6, 1e7), st.none() | st.floats(1, 1e9), st.sampled_from(["resident", "tiled"])),
    max_size=15,
)


@settings(deadline=None, max_examples=25)
@given(SEEN, SHAPES, st.sampled_from(["width", "height", "frames", "steps", "pictures"]))
@pytest.mark.exhaustive
def test_whatever_was_seen_prices_are_not_negative_monotone_and_survive_json(
    seen: list[tuple[Shape, float, float | None, str]], shape: Shape, name: str
) -> None:
    experience = Experience(CARD)
    for observed, seconds, memory, tier in seen:
        experience.observe(tier, observed, seconds, memory)
    experience.remember_oom("resident", shape)
    larger = shape._replace(**{name: getattr(shape, name) * 2})
    for price in experience.prices():
        assert all(term >= 0 for term in (*price.seconds, *price.memory))
        assert seconds_of(price.seconds, larger) >= seconds_of(price.seconds, shape) >= 0
        assert memory_of(price.memory, larger) >= memory_of(price.memory, shape) >= 0
    restored = Experience.from_dict(CARD, json.loads(json.dumps(experience.as_dict())))
    assert restored.prices() == experience.prices()
    assert restored.usual_need_mb(USUAL) == experience.usual_need_mb(USUAL)


def test_the_same_tasks_teach_the_same() -> None:
    assert taught(5, 40)[0].prices() == taught(5, 40)[0].prices()


def test_what_is_kept_is_bounded() -> None:
    experience, source = taught(6, 400)
    for _ in range(100):
        experience.remember_oom("tiled", Shape(16 * source.randint(1, 999), 16, 1, 1, source.randint(1, 99), 1))
    document = experience.as_dict()
    assert experience.count("resident") <= 96
    assert len(document["needs"]) <= 64
    assert len(document["tiers"]["tiled"]["met_oom"]) <= 16


@pytest.mark.parametrize(
    ("tier", "seconds", "memory"),
    [
        ("offload", 1.0, None),
        ("resident", 0.0, None),
        ("resident", -1.0, None),
        ("resident", float("nan"), None),
        ("resident", float("inf"), None),
        ("resident", 1.0, -1.0),
        ("resident", 1.0, float("nan")),
    ],
)
def test_what_is_no_observation_teaches_nothing(tier: str, seconds: float, memory: float | None) -> None:
    experience = Experience(CARD)
    assert not experience.observe(tier, USUAL, seconds, memory)
    assert experience.as_dict() == Experience(CARD).as_dict()


def test_oom_is_remembered_once_and_a_smaller_one_replaces_a_larger() -> None:
    experience, small = Experience(CARD), USUAL._replace(width=512)
    assert experience.remember_oom("resident", USUAL)
    assert not experience.remember_oom("resident", USUAL._replace(height=2048))
    assert experience.remember_oom("resident", small)
    assert resident(experience).met_oom == (footprint(small),)
    assert not experience.remember_oom("sequential", USUAL)


def test_the_usual_need_is_the_defaults_before_any_task_and_then_that_of_19_in_20() -> None:
    experience = Experience(CARD)
    assert experience.usual_need_mb(USUAL) == memory_of(CARD[0].memory, USUAL)
    for number in range(40):
        experience.observe("resident", USUAL, 1.0, 90000.0 if number == 20 else 9000.0)
    assert 9000 <= experience.usual_need_mb(USUAL) < 12000


GOOD: Final = taught(7, 3)[0].as_dict()


@pytest.mark.parametrize(
    "document",
    [
        {},
        [],
        GOOD | {"version": 2},
        GOOD | {"needs": ["much"]},
        GOOD | {"needs": None},
        GOOD | {"tiers": {"offload": {"observations": [], "met_oom": []}}},
        GOOD | {"tiers": {"resident": {"observations": [[0, 0, 0, 0, 0, 0, 1.0, None, 1]], "met_oom": []}}},
        GOOD | {"tiers": {"resident": {"observations": [[64, 64, 1, 1, 1, 1, 0.0, None, 1]], "met_oom": []}}},
        GOOD | {"tiers": {"resident": {"observations": [[64, 64, 1, 1, 1, 1, 1e999, None, 1]], "met_oom": []}}},
        GOOD | {"tiers": {"resident": {"observations": [[64, 64, 1.0]], "met_oom": []}}},
        GOOD | {"tiers": {"resident": {"observations": [], "met_oom": [[1]]}}},
        GOOD | {"tiers": {"resident": {"observations": [], "met_oom": [[-1, 1]]}}},
    ],
)
def test_what_is_no_experience_is_a_value_error(document: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"."):
        Experience.from_dict(CARD, document)
