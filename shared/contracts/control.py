"""What the status service tells every worker at once. Losing one costs seconds: workers also look at the bucket."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar

from pydantic import model_validator

from shared.contracts.base import Message, TaskId, Timestamp

if TYPE_CHECKING:
    from typing import Self


class Order(StrEnum):
    """What workers are to do."""

    CANCEL = "cancel"
    DRAIN = "drain"
    RELOAD = "reload"


class ControlMessage(Message):
    """An order. ``cancel`` names a task whose outcome is committed; the others may name one worker, or mean all."""

    current_schema: ClassVar[int] = 1

    order: Order
    at: Timestamp
    task_id: TaskId | None = None
    worker: str | None = None

    @model_validator(mode="after")
    def _cancel_names_a_task(self) -> Self:
        if self.order is Order.CANCEL and self.task_id is None:
            message = "cancel needs task_id"
            raise ValueError(message)
        return self
