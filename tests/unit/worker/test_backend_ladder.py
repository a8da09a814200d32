from __future__ import annotations

import gc
import weakref

import pytest

from services.worker.backends.base import GenerationCancelledError, OutOfMemoryError
from services.worker.backends.ladder import climb, rungs
from shared.domain.errors import ConfigurationError

TIERS = ("resident", "tiled", "offload")


class Attempts:
    """Fails at the given tiers, and keeps what was done."""

    def __init__(self, failing: dict[str, Exception]) -> None:
        self.failing = failing
        self.done: list[str] = []

    def attempt(self, tier: str) -> str:
        self.done.append(tier)
        if tier in self.failing:
            raise self.failing[tier]
        return f"made at {tier}"

    def release(self) -> None:
        self.done.append("release")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [("resident", ("resident", "tiled")), ("tiled", ("tiled", "offload")), ("offload", ("offload",))],
)
def test_a_tier_has_one_below_it_to_fall_back_on_and_the_last_has_none(wanted: str, expected: tuple[str, ...]) -> None:
    assert rungs(TIERS, wanted) == expected


def test_a_tier_that_there_is_not_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigurationError, match="'frugal' is not one of resident, tiled, offload"):
        rungs(TIERS, "frugal")


def test_what_fits_is_tried_once() -> None:
    attempts = Attempts({})
    assert climb(("resident", "tiled"), attempts.attempt, attempts.release) == "made at resident"
    assert attempts.done == ["resident"]


def test_what_does_not_fit_is_freed_and_tried_once_more() -> None:
    attempts = Attempts({"resident": MemoryError()})
    assert climb(("resident", "tiled"), attempts.attempt, attempts.release) == "made at tiled"
    assert attempts.done == ["resident", "release", "tiled"]


def test_what_does_not_fit_there_either_is_out_of_memory_with_the_librarys_words() -> None:
    attempts = Attempts({"resident": MemoryError(), "tiled": RuntimeError("CUDA out of memory")})
    with pytest.raises(OutOfMemoryError, match="RuntimeError: CUDA out of memory"):
        climb(("resident", "tiled"), attempts.attempt, attempts.release)


@pytest.mark.parametrize("error", [GenerationCancelledError(), ValueError("sad")])
def test_another_error_is_not_tried_again(error: Exception) -> None:
    attempts = Attempts({"resident": error})
    with pytest.raises(type(error)):
        climb(("resident", "tiled"), attempts.attempt, attempts.release)
    assert attempts.done == ["resident"]


@pytest.mark.exhaustive
def test_nothing_of_a_failed_attempt_is_held_when_its_memory_is_freed() -> None:
    class Tensor:
        pass

    held: list[weakref.ref[Tensor]] = []
    alive: list[bool] = []

    def attempt(tier: str) -> str:
        tensor = Tensor()
        held.append(weakref.ref(tensor))
        if tier == "resident":
            raise MemoryError
        return tier

    def release() -> None:
        gc.collect()
        alive.append(held[0]() is not None)

    climb(("resident", "tiled"), attempt, release)
    assert alive == [False]
