"""What a worker tells the gateways about itself: how it is, how much memory it has, what tasks cost there."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import Field

from shared.contracts.base import Contract, Message, ModelId, Timestamp
from shared.domain.prediction import Footprint as FootprintValue
from shared.domain.prediction import MemoryTerms as MemoryValues
from shared.domain.prediction import SecondsTerms as SecondsValues
from shared.domain.prediction import TierPrice

Amount = Annotated[float, Field(ge=0)]


class WorkerState(StrEnum):
    """What a worker does. One that drains takes no further task."""

    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"
    DRAINING = "draining"


class SecondsTerms(Contract):
    """See ``shared.domain.prediction.SecondsTerms``."""

    fixed: Amount = 0.0
    picture: Amount = 0.0
    picture_megapixel: Amount = 0.0
    step: Amount = 0.0
    row_step: Amount = 0.0
    row_megapixel_step: Amount = 0.0
    row_megapixel2_step: Amount = 0.0


class MemoryTerms(Contract):
    """See ``shared.domain.prediction.MemoryTerms``."""

    base: Amount = 0.0
    megapixel: Amount = 0.0
    row_megapixel: Amount = 0.0


class Footprint(Contract):
    """See ``shared.domain.prediction.Footprint``."""

    megapixels: Amount
    row_megapixels: Amount


class TierReport(Contract):
    """What one memory tier costs there, how many finished tasks that rests on, and what ran out of memory."""

    name: str
    seconds: SecondsTerms
    memory: MemoryTerms
    observations: Annotated[int, Field(ge=0)] = 0
    met_oom: tuple[Footprint, ...] = ()

    @classmethod
    def of(cls, price: TierPrice, observations: int) -> TierReport:
        """The report of a tier's price."""
        return cls(
            name=price.name,
            seconds=SecondsTerms(**price.seconds._asdict()),
            memory=MemoryTerms(**price.memory._asdict()),
            observations=observations,
            met_oom=tuple(Footprint(**failed._asdict()) for failed in price.met_oom),
        )

    def price(self) -> TierPrice:
        """The price that was reported."""
        return TierPrice(
            self.name,
            SecondsValues(**self.seconds.model_dump()),
            MemoryValues(**self.memory.model_dump()),
            tuple(FootprintValue(**failed.model_dump()) for failed in self.met_oom),
        )


class WorkerReport(Message):
    """The newest one of each worker counts. ``capacity_mb`` is the memory that a task may take, absent if unknown.

    ``revision`` is that of the model's files, absent until the model is loaded.
    """

    current_schema: ClassVar[int] = 1

    worker: str
    model: ModelId
    device: str
    state: WorkerState
    at: Timestamp
    tiers: tuple[TierReport, ...] = Field(min_length=1)
    capacity_mb: Annotated[int, Field(ge=0)] | None = None
    revision: str | None = None

    @property
    def routing_key(self) -> str:
        """``<model>.<worker>``, the key within ``atelier.workers``."""
        return f"{self.model}.{self.worker}"
