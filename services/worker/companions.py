"""Tasks that are computed together: which further deliveries a task may take along, and the task that they are as one.

A companion is of the same tenant, has the same shape, is at its first attempt, can start now, and is work that nobody
else can have done; a task with an image is computed alone. Whatever is no companion is put back at once, so that no
message waits here that another worker could take.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from shared.contracts.base import decode
from shared.contracts.task import Predicted, TaskMessage
from shared.domain.errors import DecodeError
from shared.domain.settle import Start, decide_start
from shared.logging import get_logger

if TYPE_CHECKING:
    from services.worker.ports import Plan, Planner
    from services.worker.settling import Settling
    from shared.clock import Clock
    from shared.messaging.ports import Delivery, SingleConsumer

log = get_logger(__name__)

# What waits in the queue is delivered within a few milliseconds. An empty queue costs a task this long.
WINDOW_SECONDS: Final = 0.02
# What rows of one computation may differ in.
_OWN: Final = {"prompt", "prompt_format", "negative_prompt", "seed", "count"}


class Companion(NamedTuple):
    """A delivery that is in hand, and its task."""

    delivery: Delivery
    task: TaskMessage


class Companions:
    """Looks for companions. ``most`` is how many tasks one computation takes, the first one included."""

    def __init__(self, consumer: SingleConsumer | None = None, settling: Settling | None = None, most: int = 1) -> None:
        self._consumer = consumer
        self._settling = settling
        self._most = most

    def of(self, task: TaskMessage, plan: Plan, planner: Planner, clock: Clock) -> tuple[list[Companion], Plan]:
        """The companions of a task, taken and not claimed, and the plan for all. The first that is none ends it."""
        found: list[Companion] = []
        if self._consumer is None or self._settling is None or task.attempt != 1 or task.params.image:
            return found, plan
        while len(found) + 1 < self._most:
            delivery = self._consumer.take(WINDOW_SECONDS)
            if delivery is None:
                break
            companion = _readable(delivery)
            larger = None
            if companion is not None and _fits(task, companion, clock):
                together = as_one(task, *(one.task for one in found), companion)
                larger = _in_time(together, planner.plan_together(together, plan), clock)
            if companion is None or larger is None:
                self._settling.give_back(delivery)
                break
            plan = larger
            found.append(Companion(delivery, companion))
        return found, plan


def as_one(first: TaskMessage, *others: TaskMessage) -> TaskMessage:
    """The task that these are together: all their pictures and seconds, and the earliest end of their time."""
    if not others:
        return first
    tasks = (first, *others)
    return first.model_copy(
        update={
            "params": first.params.model_copy(update={"count": sum(task.params.count for task in tasks)}),
            "finish_deadline": min(task.finish_deadline for task in tasks),
            "predicted": Predicted(
                gpu_seconds=sum(task.predicted.gpu_seconds for task in tasks),
                vram_mb=max(task.predicted.vram_mb for task in tasks),
            ),
        }
    )


def _readable(delivery: Delivery) -> TaskMessage | None:
    try:
        return decode(TaskMessage, delivery.body)
    except DecodeError as exc:
        # It is next in the queue, and then it is nobody's companion.
        log.debug("companion_unreadable", error_code=exc.code)
        return None


def _fits(task: TaskMessage, other: TaskMessage, clock: Clock) -> bool:
    if (task.tenant_id, task.model, 1, None) != (other.tenant_id, other.model, other.attempt, other.cache_key):
        return False
    if decide_start(clock(), other.start_deadline, other.finish_deadline, other.attempt) is not Start.CLAIM:
        return False
    return task.params.model_dump(exclude=_OWN) == other.params.model_dump(exclude=_OWN)


def _in_time(together: TaskMessage, plan: Plan | None, clock: Clock) -> Plan | None:
    """The plan, unless some task would be late that would not be alone."""
    left = (together.finish_deadline - clock()).total_seconds()
    return plan if plan is not None and plan.seconds <= left else None
