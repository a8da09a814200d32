"""The life of a task: its states with their legal moves, and the words that other layers share. Pure."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class TaskState(StrEnum):
    """Where a task is. The last four are final."""

    QUEUED = "queued"
    RUNNING = "running"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def is_final(self) -> bool:
        """True once the task has its one outcome."""
        return self in FINAL_STATES


FINAL_STATES: Final = frozenset({TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED, TaskState.EXPIRED})

LEGAL_MOVES: Final[dict[TaskState, frozenset[TaskState]]] = {
    TaskState.QUEUED: frozenset({TaskState.RUNNING, TaskState.RETRYING}) | FINAL_STATES,
    TaskState.RUNNING: frozenset({TaskState.RUNNING, TaskState.RETRYING}) | FINAL_STATES,
    TaskState.RETRYING: frozenset({TaskState.RUNNING, TaskState.RETRYING}) | FINAL_STATES,
    TaskState.SUCCEEDED: frozenset(),
    TaskState.FAILED: frozenset(),
    TaskState.CANCELLED: frozenset(),
    TaskState.EXPIRED: frozenset(),
}


def can_move(old: TaskState, new: TaskState) -> bool:
    """Whether a task may go from one state to another."""
    return new in LEGAL_MOVES[old]


class EventType(StrEnum):
    """What happened to a task."""

    QUEUED = "queued"
    STARTED = "started"
    PROGRESS = "progress"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


STATE_AFTER: Final[dict[EventType, TaskState]] = {
    EventType.QUEUED: TaskState.QUEUED,
    EventType.STARTED: TaskState.RUNNING,
    EventType.PROGRESS: TaskState.RUNNING,
    EventType.RETRYING: TaskState.RETRYING,
    EventType.SUCCEEDED: TaskState.SUCCEEDED,
    EventType.FAILED: TaskState.FAILED,
    EventType.CANCELLED: TaskState.CANCELLED,
    EventType.EXPIRED: TaskState.EXPIRED,
}


class Phase(StrEnum):
    """What a running task is doing."""

    LOADING = "loading"
    ENCODING = "encoding"
    DENOISING = "denoising"
    DECODING = "decoding"
    STORING = "storing"


# A preview is a small picture in base64: it passes the broker, a database and every open stream.
PREVIEW_MAX_CHARS: Final = 16 * 1024


class Lane(StrEnum):
    """Service class of a tenant's plan."""

    VIP = "vip"
    STANDARD = "standard"
    BATCH = "batch"


# A tenant's level within the ten that a work queue has. Fair share replaces this table once tenants have a ledger.
LANE_PRIORITY: Final[dict[Lane, int]] = {Lane.VIP: 9, Lane.STANDARD: 5, Lane.BATCH: 1}

DEFAULT_MAX_ATTEMPTS: Final = 3
