"""Where a task comes to stand in its model's queue, and when its turn may come."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from shared.domain.priority import FairSharePolicy, falls_at
from shared.domain.task import LANE_PRIORITY

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.gateway.admission.ports import Admitted
    from services.gateway.fleet import Fleet
    from shared.contracts.model_card import ModelCard
    from shared.contracts.task import Params, Predicted
    from shared.domain.plans import Plan
    from shared.domain.prediction import Shape
    from shared.domain.task import Lane

_SHORTEST_QUANTUM: Final = 0.001
# Workers report every few seconds; working levels and prices out for each request would cost 50 us of about 1,000.
_KEPT_SECONDS: Final = 1.0
_MOST_KEPT: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """How many tasks are served before, and the seconds to the task's end; None where nobody knows."""

    ahead: int | None = None
    eta_seconds: float | None = None


class Scheduling:
    """Levels by fair share (docs/fairness.md); by the lane alone while the ledger is away."""

    def __init__(self, fleet: Fleet, clock: Callable[[], float] = time.monotonic) -> None:
        self._fleet = fleet
        self._clock = clock
        self._prices: dict[tuple[str, Shape], tuple[float, Predicted | None]] = {}
        self._falls: dict[tuple[str, Lane, float], tuple[float, tuple[float, ...]]] = {}

    def price(self, card: ModelCard, params: Params) -> Predicted:
        """See Fleet."""
        key, now = (card.id, card.shape(params)), self._clock()
        until, price = self._prices.get(key, (0.0, None))
        if price is None or now >= until:
            price = self._fleet.price(card, params)
            if len(self._prices) >= _MOST_KEPT:
                self._prices.clear()
            self._prices[key] = (now + _KEPT_SECONDS, price)
        return price

    def falls_at(self, card: ModelCard, plan: Plan) -> tuple[float, ...]:
        """See Application. A quantum is a usual job of the model on each of its workers."""
        key, now = (card.id, plan.lane, plan.weight), self._clock()
        until, falls = self._falls.get(key, (0.0, ()))
        if now >= until:
            quantum = max(_SHORTEST_QUANTUM, self._fleet.default_seconds(card))
            policy = FairSharePolicy(quantum_seconds=quantum).on_workers(self._fleet.workers(card.id))
            falls = falls_at(policy, policy.share(plan.lane, plan.weight))
            if len(self._falls) >= _MOST_KEPT:
                self._falls.clear()
            self._falls[key] = (now + _KEPT_SECONDS, falls)
        return falls

    def priority(self, plan: Plan, admitted: Admitted) -> int:
        """The level to publish at."""
        return LANE_PRIORITY[plan.lane] if admitted.place is None else admitted.place.level

    def forecast(self, model: str, gpu_seconds: float, admitted: Admitted) -> Forecast:
        """What a client may expect, if nobody with a higher level comes. What runs is taken to be half done."""
        if admitted.place is None:
            return Forecast()
        wait = self.wait_seconds(model, admitted)
        return Forecast(ahead=admitted.place.ahead, eta_seconds=None if wait is None else wait + gpu_seconds)

    def wait_seconds(self, model: str, admitted: Admitted) -> float | None:
        """Seconds to the task's start, if nobody with a higher level comes; None where nobody knows."""
        place, workers = admitted.place, self._fleet.workers(model)
        if place is None or not workers:
            return None
        idle = place.ahead == 0 and place.running < workers
        before = 0.0 if idle else place.ahead_work + place.running_work / 2
        return before / workers
