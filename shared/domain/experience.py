"""What finished tasks taught about the cost of a model on a device: bounded, recency-weighted, serialisable. Pure."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from shared.domain.fitting import fit, quantile
from shared.domain.prediction import (
    Footprint,
    MemoryTerms,
    SecondsTerms,
    Shape,
    TierPrice,
    footprint,
    memory_features,
    memory_of,
    seconds_features,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

VERSION: Final = 1

_SHARE: Final = 0.95
# From this many observations on, the card's figures have no say.
_ENOUGH: Final = 12
# The weight of an observation halves with each so many later ones.
_HALF_LIFE: Final = 64
_MOST_OF_A_BUCKET: Final = 12
_MOST_OF_A_TIER: Final = 96
_MOST_OOM: Final = 16
_MOST_NEEDS: Final = 64
# Up to this share of the runs (but one of four) counts for nothing, if a gap of this factor lies below them.
_OUTLIERS: Final = 0.08
_OUTLIER_GAP: Final = 1.5
_FEWEST_WITH_OUTLIER: Final = 4
# Beyond these it is no measurement.
_LEAST_SECONDS: Final = 1e-6
_MOST_SECONDS: Final = 1e7
_MOST_MB: Final = 1e9


@dataclass(frozen=True, slots=True)
class _Observation:
    shape: Shape
    seconds: float
    memory_mb: float | None
    number: int

    @property
    def bucket(self) -> tuple[int, int, int]:
        return (
            round(math.log2(self.shape.megapixels)),
            self.shape.steps.bit_length(),
            self.shape.pictures * self.shape.passes,
        )


@dataclass(slots=True)
class _Tier:
    observations: list[_Observation] = field(default_factory=list)
    met_oom: list[Footprint] = field(default_factory=list)

    def add(self, new: _Observation) -> None:
        """Old ones of the same bucket make room first, so that many tasks of one shape do not push out the others."""
        self.observations.append(new)
        alike = [one for one in self.observations if one.bucket == new.bucket]
        if len(alike) > _MOST_OF_A_BUCKET:
            self.observations.remove(alike[0])
        elif len(self.observations) > _MOST_OF_A_TIER:
            self.observations.pop(0)


class Experience:
    """Observations of one model on one device. ``card`` is what its card says of each tier, in the ladder's order."""

    def __init__(self, card: Sequence[TierPrice]) -> None:
        self._card = tuple(card)
        self._tiers = {tier.name: _Tier() for tier in card}
        self._needs: deque[float] = deque(maxlen=_MOST_NEEDS)
        self._number = 0
        self._prices: tuple[TierPrice, ...] | None = self._card

    def observe(self, tier: str, shape: Shape, seconds: float, memory_mb: float | None) -> bool:
        """A task took so many GPU seconds and at most so many MiB (None or 0: not known).

        Returns False for what teaches nothing: a tier that the card does not have, a time that is no time.
        """
        known = self._tiers.get(tier)
        if known is None or not _plausible(seconds, memory_mb):
            return False
        self._number += 1
        known.add(_Observation(shape, seconds, memory_mb or None, self._number))
        self._prices = None
        card = next(price for price in self._card if price.name == tier)
        self._needs.append(memory_mb or memory_of(card.memory, shape))
        return True

    def remember_oom(self, tier: str, shape: Shape) -> bool:
        """A shape ran out of memory at a tier: it and all larger ones are not tried there again."""
        known, failed = self._tiers.get(tier), footprint(shape)
        if known is None or any(failed.covers(other) for other in known.met_oom):
            return False
        known.met_oom = [*(other for other in known.met_oom if not other.covers(failed)), failed][-_MOST_OOM:]
        self._prices = None
        return True

    def prices(self) -> tuple[TierPrice, ...]:
        """What each tier costs: the p95 of what was seen, or the card's word where little or nothing was.

        The first call after something was learnt takes milliseconds.
        """
        if self._prices is None:
            self._prices = self._learn()
        return self._prices

    def usual_need_mb(self, default: Shape) -> float:
        """MiB that 95 % of the last tasks would have found enough; of the default shape before there were any."""
        if not self._needs:
            return memory_of(self.prices()[0].memory, default)
        return quantile(list(self._needs), [1.0] * len(self._needs), _SHARE)

    def count(self, tier: str) -> int:
        """How many observations a tier's price rests on."""
        return len(self._tiers[tier].observations)

    def as_dict(self) -> dict[str, Any]:
        """Everything, as plain JSON values."""
        return {
            "version": VERSION,
            "number": self._number,
            "needs": list(self._needs),
            "tiers": {
                name: {
                    "observations": [[*one.shape, one.seconds, one.memory_mb, one.number] for one in tier.observations],
                    "met_oom": [list(failed) for failed in tier.met_oom],
                }
                for name, tier in self._tiers.items()
            },
        }

    @classmethod
    def from_dict(cls, card: Sequence[TierPrice], document: Mapping[str, Any]) -> Experience:
        """What ``as_dict`` gave. Raises ValueError for anything else, or another version."""
        restored = cls(card)
        try:
            if document["version"] != VERSION:
                message = f"version {document['version']!r} is not {VERSION}"
                raise ValueError(message)
            restored._number = int(document["number"])
            restored._needs.extend(_number(need) for need in document["needs"])
            for name, tier in document["tiers"].items():
                known = restored._tiers[name]
                known.observations = [_observation(row) for row in tier["observations"]][-_MOST_OF_A_TIER:]
                known.met_oom = [Footprint(_number(mp), _number(rows)) for mp, rows in tier["met_oom"][-_MOST_OOM:]]
        except (KeyError, TypeError, AttributeError, OverflowError) as exc:
            message = f"not an experience: {exc!r}"
            raise ValueError(message) from exc
        restored._prices = None
        return restored

    def _learn(self) -> tuple[TierPrice, ...]:
        # What one tier taught about the device's speed holds for the others, which are slower by the card's factors.
        anchor = max(self._card, key=lambda tier: self.count(tier.name))
        anchor_seconds = self._seconds(anchor, anchor.seconds)
        learnt = []
        for tier in self._card:
            if tier is anchor:
                seconds = anchor_seconds
            else:
                seconds = self._seconds(tier, _transferred(anchor_seconds, anchor.seconds, tier.seconds))
            met_oom = tuple(self._tiers[tier.name].met_oom)
            learnt.append(TierPrice(tier.name, seconds, self._memory(tier), met_oom))
        return tuple(learnt)

    def _seconds(self, tier: TierPrice, prior: SecondsTerms) -> SecondsTerms:
        seen = self._tiers[tier.name].observations
        rows = [seconds_features(one.shape) for one in seen]
        return SecondsTerms(*_blend(prior, rows, [one.seconds for one in seen], self._weights(seen)))

    def _memory(self, tier: TierPrice) -> MemoryTerms:
        seen = [one for one in self._tiers[tier.name].observations if one.memory_mb is not None]
        rows = [memory_features(one.shape) for one in seen]
        return MemoryTerms(*_blend(tier.memory, rows, [one.memory_mb or 0.0 for one in seen], self._weights(seen)))

    def _weights(self, seen: Sequence[_Observation]) -> list[float]:
        return [0.5 ** ((self._number - one.number) / _HALF_LIFE) for one in seen]


def _blend(
    prior: Sequence[float], rows: Sequence[Sequence[float]], values: Sequence[float], weights: Sequence[float]
) -> list[float]:
    """From the prior to the p95 of the observations, as these become more."""
    if not values:
        return list(prior)
    terms = fit(rows, values, weights, prior)
    factor = _p95_factor(terms, rows, values, weights)
    share = min(1.0, len(values) / _ENOUGH)
    return [(1 - share) * before + share * factor * term for before, term in zip(prior, terms, strict=True)]


def _p95_factor(
    terms: Sequence[float], rows: Sequence[Sequence[float]], values: Sequence[float], weights: Sequence[float]
) -> float:
    """By how much the fit must be raised to cover 95 % of what comes next, judged by what was seen."""
    ratios = []
    for row, value, weight in zip(rows, values, weights, strict=True):
        fitted = sum(x * term for x, term in zip(row, terms, strict=True))
        if fitted > 0:
            ratios.append((value / fitted, weight))
    ratios = _without_outliers(sorted(ratios))
    if not ratios:
        return 1.0
    kept = [weight for _, weight in ratios]
    size = sum(kept) ** 2 / sum(weight**2 for weight in kept)
    # The rank for the next value and not for the seen ones, which the fit was made to suit.
    share = min(1.0, _SHARE * (size + 1) / size)
    high = quantile([ratio for ratio, _ in ratios], kept, share)
    return high + max(0.0, high - 1.0) * len(terms) / size


def _without_outliers(ordered: list[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(ordered) < _FEWEST_WITH_OUTLIER:
        return ordered
    lowest = len(ordered) - max(1, int(_OUTLIERS * len(ordered)))
    for first in range(lowest, len(ordered)):
        if ordered[first][0] > _OUTLIER_GAP * ordered[first - 1][0]:
            return ordered[:first]
    return ordered


def _transferred(learnt: SecondsTerms, card: SecondsTerms, other: SecondsTerms) -> SecondsTerms:
    """What was learnt at one tier, for another that the card calls so many times slower."""
    if not (whole := sum(card)):
        return other
    factor = sum(other) / whole
    return SecondsTerms(*(factor * term for term in learnt))


def _plausible(seconds: float, memory_mb: float | None) -> bool:
    return _LEAST_SECONDS <= seconds <= _MOST_SECONDS and (not memory_mb or 1 <= memory_mb <= _MOST_MB)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        message = f"{value!r} is not a number of 0 or more"
        raise ValueError(message)
    return float(value)


def _observation(row: Sequence[Any]) -> _Observation:
    *sides, seconds, memory_mb, number = row
    if not all(type(side) is int and side > 0 for side in sides) or type(number) is not int:
        message = f"{row!r} is not an observation"
        raise ValueError(message)
    if not _plausible(_number(seconds), None if memory_mb is None else _number(memory_mb)):
        message = f"{row!r} is not plausible"
        raise ValueError(message)
    return _Observation(Shape(*sides), seconds, memory_mb, number)
