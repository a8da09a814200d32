"""What the bucket holds of a task: claims (who started which attempt) and the one outcome."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from shared.contracts.base import Contract, Message, TaskId, Timestamp
from shared.contracts.task import TaskMessage
from shared.domain.settle import ClaimMark
from shared.domain.task import TaskState

FinalState = Literal[TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED, TaskState.EXPIRED]


class Claim(Message):
    """``claim-<attempt>.json``: created once (If-None-Match), it is the fence before a start."""

    current_schema: ClassVar[int] = 1

    task_id: TaskId
    attempt: Annotated[int, Field(ge=1)]
    execution: str
    worker: str
    at: Timestamp
    run_budget_seconds: Annotated[float, Field(ge=0)]
    mark: ClaimMark = ClaimMark.RUN


class Lease(Message):
    """``workers/<worker>.json``: rewritten every few seconds, it says which executions the worker has in hand."""

    current_schema: ClassVar[int] = 1

    worker: str
    at: Timestamp
    executions: tuple[str, ...] = ()


class Artifact(Contract):
    """One file of a succeeded task. ``key`` is its place in the bucket, sides are pixels.

    ``role`` is None for what was asked for; a ``poster`` is a still of the video before it.
    """

    key: str
    media_type: str
    bytes: Annotated[int, Field(ge=0)]
    sha256: str
    width: int
    height: int
    seed: int
    frames: int = 1
    fps: float | None = None
    role: Literal["poster"] | None = None


class ErrorInfo(Contract):
    """Why a task did not succeed. ``code`` is stable, ``message`` is for people."""

    code: str
    message: str


class Outcome(Message):
    """``outcome.json``: the one end of a task. It holds the whole task, so a lost database can be rebuilt from it."""

    current_schema: ClassVar[int] = 1

    task: TaskMessage
    state: FinalState
    attempt: Annotated[int, Field(ge=1)]
    execution: str
    worker: str
    ended_at: Timestamp
    started_at: Timestamp | None = None
    artifacts: tuple[Artifact, ...] = ()
    error: ErrorInfo | None = None
    timings: dict[str, float] = Field(default_factory=dict)
    receipt: dict[str, str | int | float] = Field(default_factory=dict)
