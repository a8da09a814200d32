"""Work that was done before: what makes two tasks the same work, who does it, and a task that ends by its result."""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, Final

import orjson

from shared.contracts.base import Message, TaskId, Timestamp
from shared.contracts.outcome import Outcome
from shared.domain.task import TaskState
from shared.ids import new_execution_id

if TYPE_CHECKING:
    from datetime import datetime

    from shared.contracts.task import Params, TaskMessage

# What an outcome's receipt says when another task made its artifacts, and which one, where both are of one tenant.
RECEIPT_CACHE: Final = "cache"
RECEIPT_MADE_BY: Final = "made_by"
_HIT: Final = "hit"
# Of tenants that share; every other scope is one tenant's.
SHARED_SCOPE: Final = "shared"


class Sameness(StrEnum):
    """Whether the seed belongs to the work, or any seed's result will do."""

    SEED = "seed"
    ANY = "any"


class Lead(Message):
    """``cache/<cache key>/<number>.json``, created once: the task that does this work, or did it.

    How it ended, and with what, is in that task's outcome alone.
    """

    current_schema: ClassVar[int] = 1

    task_id: TaskId
    at: Timestamp


def cache_key(scope: str, model: str, revision: str, params: Params, sameness: Sameness) -> str:
    """``<scope>/<SHA-256 (hex) of the resolved request and the model's revision>``.

    ``scope`` is who shares the result. Two requests of one key have the same pictures, or with ``Sameness.ANY``
    pictures that differ by nothing but their seeds.
    """
    left_out = {"image", "seed"} if sameness is Sameness.ANY else {"image"}
    asked = params.model_dump(mode="json", exclude=left_out)
    if params.image is not None:
        # By its content: where it lies is each tenant's own.
        asked["image"] = params.image.sha256
    work = {"model": model, "revision": revision, "sameness": sameness, "params": asked}
    return f"{scope}/{hashlib.sha256(orjson.dumps(work, option=orjson.OPT_SORT_KEYS)).hexdigest()}"


def scope_of(key: str) -> str:
    """Whose results a cache key is among."""
    return key.rpartition("/")[0]


def reused(task: TaskMessage, made: Outcome, *, worker: str, at: datetime) -> Outcome:
    """The outcome of a task whose work ``made`` is: succeeded, never started, with the same artifacts.

    The task is shown with the seed of what it gets.
    """
    receipt: dict[str, str | int | float] = {**made.receipt, RECEIPT_CACHE: _HIT}
    receipt.pop(RECEIPT_MADE_BY, None)
    if made.task.tenant_id == task.tenant_id:
        receipt[RECEIPT_MADE_BY] = str(made.receipt.get(RECEIPT_MADE_BY, made.task.task_id))
    waited = max(0.0, (at - task.submitted_at).total_seconds())
    return Outcome(
        task=task.model_copy(update={"params": task.params.model_copy(update={"seed": made.task.params.seed})}),
        state=TaskState.SUCCEEDED,
        attempt=task.attempt,
        execution=new_execution_id(),
        worker=worker,
        ended_at=at,
        artifacts=made.artifacts,
        timings={"queued": waited, "total": waited},
        receipt=receipt,
    )
