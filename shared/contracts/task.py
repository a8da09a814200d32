"""The work itself, as the gateway publishes it and every later message repeats it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from shared.contracts.base import Contract, Message, ModelId, TaskId, TenantId, Timestamp
from shared.domain.task import EventType, Lane
from shared.ids import trace_id_of


class InputImage(Contract):
    """A picture that a task starts from: an object of the bucket, known by its SHA-256 (hex). It was never decoded."""

    key: Annotated[str, StringConstraints(pattern=r"^inputs/[a-z0-9][a-z0-9_-]{0,62}/[0-9a-f]{64}\.(png|jpg|webp)$")]
    media_type: Literal["image/png", "image/jpeg", "image/webp"]
    bytes: Annotated[int, Field(gt=0)]
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Params(Contract):
    """What to make, fully resolved: nothing is defaulted later. Sides are pixels; picture i has seed ``seed + i``."""

    prompt: str
    prompt_format: Literal["xml", "text"]
    negative_prompt: str = ""
    width: Annotated[int, Field(gt=0)]
    height: Annotated[int, Field(gt=0)]
    steps: Annotated[int, Field(gt=0)]
    guidance: Annotated[float, Field(ge=0)]
    seed: Annotated[int, Field(ge=0)]
    count: Annotated[int, Field(gt=0)] = 1
    num_frames: Annotated[int, Field(gt=0)] = 1
    image: InputImage | None = None

    @property
    def seeds(self) -> tuple[int, ...]:
        """One seed for each picture."""
        return tuple(self.seed + i for i in range(self.count))


class Predicted(Contract):
    """What the task is expected to cost: seconds of GPU time, MiB of GPU memory."""

    gpu_seconds: Annotated[float, Field(ge=0)]
    vram_mb: Annotated[int, Field(ge=0)]


class TaskMessage(Message):
    """One task, as it lies in a work queue.

    ``callback`` is where its client wants to be told of ``callback_events``, of every end when that is none.
    """

    current_schema: ClassVar[int] = 1

    task_id: TaskId
    tenant_id: TenantId
    lane: Lane
    model: ModelId
    params: Params
    attempt: Annotated[int, Field(ge=1)] = 1
    max_attempts: Annotated[int, Field(ge=1)] = 3
    priority: Annotated[int, Field(ge=0, le=9)] = 0
    submitted_at: Timestamp
    start_deadline: Timestamp
    finish_deadline: Timestamp
    predicted: Predicted
    callback: str | None = None
    callback_events: tuple[EventType, ...] | None = None
    cache_key: str | None = None
    retry_of: TaskId | None = None
    request_id: str | None = None
    traceparent: str | None = None

    def log_context(self) -> dict[str, str | int | None]:
        """What every log line about this task carries."""
        return {
            "task_id": self.task_id,
            "tenant_id": self.tenant_id,
            "request_id": self.request_id,
            "trace_id": trace_id_of(self.traceparent) if self.traceparent else None,
            "attempt": self.attempt,
        }
