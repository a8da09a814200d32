"""Non-negative, robust regression in relative errors, drawn towards a prior; weighted quantiles. Pure."""

from __future__ import annotations

import math
from operator import mul
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

# How many observations' worth of pull the prior has. It decides only where the observations leave a choice.
_PRIOR_WEIGHT: Final = 0.05
# A residual beyond this (as a logarithm: about 20 %) loses weight, so that one strange run bends nothing.
_HUBER: Final = 0.2
_REWEIGHTINGS: Final = 3
_SWEEPS: Final = 100
_CONVERGED: Final = 1e-5


def fit(
    rows: Sequence[Sequence[float]], values: Sequence[float], weights: Sequence[float], prior: Sequence[float]
) -> list[float]:
    """Terms t >= 0 with ``row . t`` near ``value`` in relative error. ``values`` are positive, ``rows`` not negative.

    The prior is scaled to the observations first: from observations of one shape alone follows the scaled prior.
    """
    prior = _scaled(rows, values, weights, prior)
    relative = [[x / value for x in row] for row, value in zip(rows, values, strict=True)]
    terms = list(prior)
    for _ in range(_REWEIGHTINGS):
        trusted = [weight * _trust(_dot(row, terms)) for weight, row in zip(weights, relative, strict=True)]
        terms = _least_squares(relative, trusted, prior)
    return terms


def quantile(values: Sequence[float], weights: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of the weight does not exceed."""
    bound, total = share * sum(weights), 0.0
    ordered = sorted(zip(values, weights, strict=True))
    for value, weight in ordered:
        total += weight
        if total >= bound * (1 - 1e-12):
            return value
    return ordered[-1][0]


def _scaled(
    rows: Sequence[Sequence[float]], values: Sequence[float], weights: Sequence[float], prior: Sequence[float]
) -> list[float]:
    predicted = [_dot(row, prior) for row in rows]
    known = [(v / p, w) for v, p, w in zip(values, predicted, weights, strict=True) if p > 0]
    if not known:
        return list(prior)
    ratio = quantile([r for r, _ in known], [w for _, w in known], 0.5)
    return [ratio * term for term in prior]


def _least_squares(rows: list[list[float]], weights: list[float], prior: list[float]) -> list[float]:
    """Coordinate descent over terms scaled by their mean share, so that the prior pulls on all of them alike."""
    total = sum(weights)
    weighted = [[weight * x for x in row] for weight, row in zip(weights, rows, strict=True)]
    share = [sum(column) / total for column in zip(*weighted, strict=True)]
    active = [j for j, mean in enumerate(share) if mean > 0]
    columns = [[row[j] / share[j] for row in rows] for j in active]
    pulled = [[row[j] / share[j] for row in weighted] for j in active]
    gram = [[_dot(left, right) for right in columns] for left in pulled]
    anchor = [prior[j] * share[j] for j in active]
    target = [sum(column) + _PRIOR_WEIGHT * start for column, start in zip(pulled, anchor, strict=True)]
    scaled = _descend(gram, target, anchor)
    terms = list(prior)
    for j, value in zip(active, scaled, strict=True):
        terms[j] = value / share[j]
    return terms


def _descend(gram: list[list[float]], target: list[float], start: list[float]) -> list[float]:
    scaled = list(start)
    for _ in range(_SWEEPS):
        moved = 0.0
        for j, row in enumerate(gram):
            old = scaled[j]
            rest = _dot(row, scaled) - row[j] * old
            scaled[j] = max(0.0, (target[j] - rest) / (row[j] + _PRIOR_WEIGHT))
            moved = max(moved, abs(scaled[j] - old))
        if moved < _CONVERGED:
            break
    return scaled


def _trust(ratio: float) -> float:
    """How much an observation counts whose fitted value is so many times the observed one."""
    if ratio <= 0:
        return _HUBER
    distance = abs(math.log(ratio))
    # An error relative to the observed value grows without bound for one that is far too small: count it to the fitted.
    return min(1.0, _HUBER / max(distance, _HUBER)) / max(1.0, ratio) ** 2


def _dot(left: Sequence[float], right: Sequence[float]) -> float:
    total: float = sum(map(mul, left, right))
    return total
