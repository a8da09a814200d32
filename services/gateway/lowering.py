"""A task's result, or what shall be made: under load a lower quality than asked for, where its client allows it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from shared.domain.quality import Quality, under_load
from shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.gateway.admission.ports import Admission, Admitted, Application
    from services.gateway.results.cache import Found, ResultCache
    from services.gateway.scheduling import Scheduling
    from shared.contracts.model_card import ModelCard
    from shared.contracts.outcome import Outcome
    from shared.contracts.task import Params, TaskMessage

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Placed:
    """A task that was admitted. ``cache_key`` is that of its work with other parameters.

    ``may_lower``: its client allows a lower quality, and named no steps of its own.
    """

    task: TaskMessage
    card: ModelCard
    application: Application
    admitted: Admitted
    cache_key: Callable[[Params], str | None]
    may_lower: bool


class Lowering:
    """Looks for the result that was asked for first: what is made already costs nothing."""

    def __init__(self, admission: Admission, scheduling: Scheduling, results: ResultCache) -> None:
        self._admission = admission
        self._scheduling = scheduling
        self._results = results

    def find(self, placed: Placed) -> tuple[TaskMessage, Found, Outcome | None]:
        """The task as it shall be made, and its result if that is made already."""
        found, made = self._results.find(placed.task)
        if made is not None or not placed.may_lower:
            return placed.task, found, made
        quality = self._quality(placed)
        if quality is placed.task.params.made_quality:
            return placed.task, found, made
        task = self._lowered(placed, quality)
        return (task, *self._results.find(task))

    def _quality(self, placed: Placed) -> Quality:
        """The same as before for a task that was asked for before: it may have been published."""
        card, admitted = placed.card, placed.admitted
        asked = placed.task.params.made_quality
        if admitted.repeated:
            return Quality(admitted.quality) if admitted.quality is not None else asked
        wait = self._scheduling.wait_seconds(card.id, admitted)
        quality = under_load(asked, card.qualities, wait, card.degrade.above_seconds if card.degrade else None)
        if quality is asked:
            return asked
        price = self._scheduling.price(card, self._params(placed, quality))
        application = replace(placed.application, gpu_seconds=price.gpu_seconds)
        log.info("quality_lowered", model=card.id, asked=asked, quality=quality, wait_seconds=round(wait or 0.0, 3))
        return Quality(self._admission.lower(application, quality))

    def _lowered(self, placed: Placed, quality: Quality) -> TaskMessage:
        params = self._params(placed, quality)
        changes = {
            "params": params,
            "predicted": self._scheduling.price(placed.card, params),
            "cache_key": placed.cache_key(params),
        }
        return placed.task.model_copy(update=changes)

    @staticmethod
    def _params(placed: Placed, quality: Quality) -> Params:
        params = placed.task.params
        changes = {"quality": quality, "quality_asked": params.made_quality, "steps": placed.card.steps(quality)}
        return params.model_copy(update=changes)
