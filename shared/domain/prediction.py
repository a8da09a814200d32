"""What a task costs: GPU seconds and MiB of GPU memory, as sums of non-negative terms of its shape. Pure.

The model card and the learnt figures (``shared.domain.experience``) have the same form, so pricing a task is a few
multiplications, and a larger picture, more steps, frames or pictures never cost less.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

# From the most memory and speed to the least of both.
TIERS: Final = ("resident", "tiled", "offload", "sequential")

# Guidance at or below this needs the conditional prediction alone.
NO_GUIDANCE: Final = 1.0

# A run may take this many times its predicted seconds, and never less than the floor.
BUDGET_FACTOR: Final = 10.0
BUDGET_FLOOR_SECONDS: Final = 120.0


class Shape(NamedTuple):
    """What a task's cost depends on. ``passes`` is 2 where guidance needs a second prediction in each step."""

    width: int
    height: int
    frames: int
    steps: int
    pictures: int
    passes: int

    @property
    def megapixels(self) -> float:
        """Millions of pixels of one result, over all its frames."""
        return self.width * self.height * self.frames / 1e6


class SecondsTerms(NamedTuple):
    """GPU seconds of each part of a shape. A row is one picture in one pass."""

    fixed: float = 0.0
    picture: float = 0.0
    picture_megapixel: float = 0.0
    step: float = 0.0
    row_step: float = 0.0
    row_megapixel_step: float = 0.0
    row_megapixel2_step: float = 0.0


class MemoryTerms(NamedTuple):
    """MiB of each part of a shape. The pictures of a task may be computed as one batch: memory of each row."""

    base: float = 0.0
    megapixel: float = 0.0
    row_megapixel: float = 0.0


class Footprint(NamedTuple):
    """The two measures that memory grows with."""

    megapixels: float
    row_megapixels: float

    def covers(self, other: Footprint) -> bool:
        """Whether it needs at least as much memory as the other, whatever the terms are."""
        return self.megapixels >= other.megapixels and self.row_megapixels >= other.row_megapixels


class TierPrice(NamedTuple):
    """What a memory tier costs, and the smallest footprints that ran out of memory at it."""

    name: str
    seconds: SecondsTerms
    memory: MemoryTerms
    met_oom: tuple[Footprint, ...] = ()


class Estimate(NamedTuple):
    """The expected cost at one tier."""

    tier: str
    seconds: float
    memory_mb: float


@dataclass(frozen=True, slots=True)
class Sides:
    """Which sides in pixels a model can make."""

    multiple: int
    least: int


def seconds_features(shape: Shape) -> SecondsTerms:
    """How often each term of the seconds counts."""
    megapixels, rows = shape.megapixels, shape.pictures * shape.passes
    row_steps = rows * shape.steps
    return SecondsTerms(
        1.0,
        shape.pictures,
        shape.pictures * megapixels,
        shape.steps,
        row_steps,
        row_steps * megapixels,
        row_steps * megapixels**2,
    )


def memory_features(shape: Shape) -> MemoryTerms:
    """How often each term of the memory counts."""
    megapixels = shape.megapixels
    return MemoryTerms(1.0, megapixels, shape.pictures * shape.passes * megapixels)


def footprint(shape: Shape) -> Footprint:
    """What of a shape decides on its memory."""
    return Footprint(*memory_features(shape)[1:])


def seconds_of(terms: SecondsTerms, shape: Shape) -> float:
    """GPU seconds of a shape; written out, because the gateway does this for every request."""
    megapixels = shape.width * shape.height * shape.frames / 1e6
    row = terms.row_step + megapixels * (terms.row_megapixel_step + megapixels * terms.row_megapixel2_step)
    picture = terms.picture + megapixels * terms.picture_megapixel
    return terms.fixed + shape.pictures * (picture + shape.passes * shape.steps * row) + shape.steps * terms.step


def memory_of(terms: MemoryTerms, shape: Shape) -> float:
    """MiB of a shape."""
    megapixels = shape.width * shape.height * shape.frames / 1e6
    return terms.base + megapixels * (terms.megapixel + shape.pictures * shape.passes * terms.row_megapixel)


def estimate(tier: TierPrice, shape: Shape) -> Estimate:
    """The cost of a shape at a tier, whether or not it fits."""
    return Estimate(tier.name, seconds_of(tier.seconds, shape), memory_of(tier.memory, shape))


def first_fitting(tiers: Sequence[TierPrice], shape: Shape, capacity_mb: float | None) -> Estimate | None:
    """The cost at the first tier whose memory suffices (always, where the capacity is not known), or None.

    A shape is not tried where it, or a smaller one, has run out of memory.
    """
    for tier in tiers:
        needed = memory_of(tier.memory, shape)
        if capacity_mb is not None and needed > capacity_mb:
            continue
        if tier.met_oom and meets_oom(tier, shape):
            continue
        return Estimate(tier.name, seconds_of(tier.seconds, shape), needed)
    return None


def meets_oom(tier: TierPrice, shape: Shape) -> bool:
    """Whether this shape, or a smaller one, is known to run out of memory at the tier."""
    print_ = footprint(shape)
    return any(print_.covers(failed) for failed in tier.met_oom)


def fits(tiers: Sequence[TierPrice], shape: Shape, capacity_mb: float | None) -> bool:
    """Whether any tier's memory suffices."""
    return first_fitting(tiers, shape, capacity_mb) is not None


def largest_fitting(
    tiers: Sequence[TierPrice], shape: Shape, capacity_mb: float | None, sides: Sides
) -> tuple[int, int] | None:
    """Width and height of the largest picture up to ``shape`` that fits, all else the same, or None.

    The aspect ratio is kept as well as sides that are multiples allow.
    """
    unit, longer = sides.multiple, max(shape.width, shape.height)

    def sized(longer_units: int) -> Shape:
        width, height = (
            unit * ((2 * longer_units * side + longer) // (2 * longer)) for side in (shape.width, shape.height)
        )
        return shape._replace(width=width, height=height)

    def too_small(candidate: Shape) -> bool:
        return min(candidate.width, candidate.height) < max(sides.least, 1)

    # Both tests change once as the picture grows, so the largest that fits is found by halving.
    low, high = 0, longer // unit
    while low < high:
        middle = (low + high + 1) // 2
        if too_small(sized(middle)) or fits(tiers, sized(middle), capacity_mb):
            low = middle
        else:
            high = middle - 1
    best = sized(low)
    return None if too_small(best) else (best.width, best.height)


def run_budget_seconds(predicted_seconds: float) -> float:
    """How long a run may take before it is ended, while the finish deadline allows."""
    return max(BUDGET_FLOOR_SECONDS, BUDGET_FACTOR * predicted_seconds)


def longest_admissible_seconds(max_run_seconds: float, finish_within_seconds: float) -> float:
    """The largest prediction with which a task can finish alone, and with which no run outlasts ``max_run_seconds``.

    A run ends at its budget or at the finish deadline, whichever comes first.
    """
    if finish_within_seconds <= max_run_seconds:
        return finish_within_seconds
    return min(finish_within_seconds, max_run_seconds / BUDGET_FACTOR)
