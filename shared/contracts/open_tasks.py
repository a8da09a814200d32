"""Tasks that have not ended, as the status API lists them for the gateway's ledger."""

from __future__ import annotations

from shared.contracts.base import Contract, ModelId, TaskId, TenantId, Timestamp
from shared.domain.task import TaskState


class OpenTask(Contract):
    """One of them. ``gpu_seconds`` is its price."""

    task_id: TaskId
    tenant_id: TenantId
    model: ModelId
    state: TaskState
    attempt: int
    priority: int
    gpu_seconds: float
    finish_deadline: Timestamp


class OpenTaskPage(Contract):
    """Those among the next tasks by id; ``next_cursor`` is None after the last."""

    tasks: tuple[OpenTask, ...]
    next_cursor: TaskId | None = None
