"""The task that a replay makes of an old one. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.domain.task import DEFAULT_MAX_ATTEMPTS

if TYPE_CHECKING:
    from datetime import datetime

    from shared.contracts.task import TaskMessage


def again(task: TaskMessage, new_id: str, now: datetime) -> TaskMessage:
    """The same work as a new task, with windows as long as the old one had."""
    return task.model_copy(
        update={
            "task_id": new_id,
            "retry_of": task.task_id,
            "attempt": 1,
            # Drains raise the old one's number: those were not its own.
            "max_attempts": min(task.max_attempts, DEFAULT_MAX_ATTEMPTS),
            "submitted_at": now,
            "start_deadline": now + (task.start_deadline - task.submitted_at),
            "finish_deadline": now + (task.finish_deadline - task.submitted_at),
        }
    )
