"""The workers as they report themselves, and what a task costs and needs by their figures."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from services.gateway.errors import ExceedsMemoryError
from shared.contracts.base import decode
from shared.contracts.task import Predicted
from shared.contracts.worker_report import WorkerReport, WorkerState
from shared.domain.errors import DecodeError
from shared.domain.prediction import Shape, estimate, first_fitting, largest_fitting, seconds_of
from shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from shared.contracts.model_card import ModelCard
    from shared.contracts.task import Params
    from shared.domain.prediction import Estimate, TierPrice

log = get_logger(__name__)

FORGET_SECONDS: Final = 90.0
# A task is priced by the slowest so many that it fits: the work of a request must not grow with the fleet.
_MOST_PRICED: Final = 8
_MOST_WORKERS: Final = 1000
# By which workers are ordered from slow to fast.
_YARDSTICK: Final = Shape(1024, 1024, 1, 28, 1, 2)


@dataclass(frozen=True, slots=True)
class _Known:
    tiers: tuple[TierPrice, ...]
    capacity_mb: int | None
    heard: float
    revision: str | None
    slowness: float

    def expect(self, shape: Shape) -> Estimate | None:
        return first_fitting(self.tiers, shape, self.capacity_mb)


@dataclass(frozen=True, slots=True)
class _Crew:
    """A model's workers, and when the first of them has to be forgotten."""

    workers: dict[str, _Known]
    until: float


class Fleet:
    """The newest report of each worker, by arrival; one that drains or is silent for 90 s is forgotten.

    Reports come in one greenlet and prices are asked for in others; what they share is replaced whole.
    """

    def __init__(self, models: Iterable[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._revisions: dict[str, str | None] = {}
        self._crews: dict[str, _Crew] = {model: _Crew({}, math.inf) for model in models}

    def hear(self, body: bytes) -> None:
        """Take a report in. One that cannot be read is logged and left out."""
        try:
            report = decode(WorkerReport, body)
        except DecodeError as exc:
            log.warning("worker_report_unreadable", error_code=exc.code, error_message=exc.message[:200])
            return
        with self._lock:
            crew = self._crews.get(report.model)
            if crew is None:
                return  # of a model that is not served here
            workers = {name: known for name, known in crew.workers.items() if name != report.worker}
            if report.state is not WorkerState.DRAINING and len(workers) < _MOST_WORKERS:
                tiers = tuple(tier.price() for tier in report.tiers)
                slowness = seconds_of(tiers[0].seconds, _YARDSTICK)
                workers[report.worker] = _Known(tiers, report.capacity_mb, self._clock(), report.revision, slowness)
            self._install(report.model, workers)

    def workers(self, model: str) -> int:
        """How many workers of a model are known."""
        return len(self._workers(model))

    def revision(self, model: str) -> str | None:
        """The one that all workers have loaded, or had when any was known; None while they differ, or none told."""
        revisions = {known.revision for known in self._workers(model).values()} - {None}
        if len(revisions) > 1:
            return None
        if revisions:
            self._revisions[model] = revisions.pop()
        return self._revisions.get(model)

    def price(self, card: ModelCard, params: Params) -> Predicted:
        """The p95 of the slowest worker that the task fits, and its need there; by the card while none is known.

        Raises ExceedsMemoryError for what fits no known worker.
        """
        shape, workers = card.shape(params), self._workers(card.id)
        if not workers:
            return _predicted(estimate(card.prices[0], shape))
        slowest: Estimate | None = None
        priced = 0
        for known in workers.values():
            expected = known.expect(shape)
            if expected is None:
                continue
            if slowest is None or expected.seconds > slowest.seconds:
                slowest = expected
            priced += 1
            if priced == _MOST_PRICED:
                break
        if slowest is None:
            raise _exceeds_memory(card, shape, workers)
        return _predicted(slowest)

    def default_seconds(self, card: ModelCard) -> float:
        """GPU seconds of a request that says nothing."""
        expected = [known.expect(card.default_shape) for known in self._workers(card.id).values()]
        seconds = [one.seconds for one in expected if one is not None]
        return max(seconds, default=estimate(card.prices[0], card.default_shape).seconds)

    def _workers(self, model: str) -> dict[str, _Known]:
        crew = self._crews[model]
        if self._clock() < crew.until:
            return crew.workers
        with self._lock:
            alive = self._clock() - FORGET_SECONDS
            workers = {name: known for name, known in self._crews[model].workers.items() if known.heard > alive}
            self._install(model, workers)
        return workers

    def _install(self, model: str, workers: dict[str, _Known]) -> None:
        slowest_first = dict(sorted(workers.items(), key=lambda named: (-named[1].slowness, named[0])))
        until = min((known.heard for known in workers.values()), default=math.inf) + FORGET_SECONDS
        self._crews[model] = _Crew(slowest_first, until)


def _predicted(expected: Estimate) -> Predicted:
    return Predicted(gpu_seconds=expected.seconds, vram_mb=round(expected.memory_mb))


def _exceeds_memory(card: ModelCard, shape: Shape, workers: dict[str, _Known]) -> ExceedsMemoryError:
    sizes = [largest_fitting(known.tiers, shape, known.capacity_mb, card.sides) for known in workers.values()]
    largest = max((size for size in sizes if size is not None), key=lambda size: size[0] * size[1], default=None)
    return ExceedsMemoryError((shape.width, shape.height), largest)
