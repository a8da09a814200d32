"""Another try of a task that did not succeed: which one is meant, under which id, and what it inherits.

A retry's id follows from the task that it retries, as an operator's replay's does, so asking twice makes one task.
Where the retry itself did not succeed, the next one is a retry of that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from services.gateway.errors import RetriedOftenError, TaskNotEndedError, TaskNotFoundError, TaskSucceededError
from shared.domain.errors import DecodeError, StorageError
from shared.domain.task import TaskState
from shared.ids import is_task_id, retried_id

if TYPE_CHECKING:
    from services.gateway.admission.ports import OpenTasks
    from shared.contracts.outcome import Outcome
    from shared.contracts.task import TaskMessage
    from shared.storage.records import TaskRecords

# Looks into the bucket for one request.
MOST_FOLLOWED: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Another try of ``origin`` under ``task_id``. With an ``outcome`` there was one before, and it succeeded."""

    origin: TaskMessage
    task_id: str
    outcome: Outcome | None = None


class Retries:
    """Finds what a client wants to try again."""

    def __init__(self, records: TaskRecords, open_tasks: OpenTasks) -> None:
        self._records = records
        self._open_tasks = open_tasks

    def find(self, task_id: str, tenant_id: str) -> Retry:
        """The try that is due for a task.

        Raises TaskNotFoundError (also for another tenant's task), TaskNotEndedError, TaskSucceededError,
        RetriedOftenError, StorageError.
        """
        last = self.ended(task_id, tenant_id)
        if last.state is TaskState.SUCCEEDED:
            raise TaskSucceededError(last.state)
        for _ in range(MOST_FOLLOWED):
            origin, following = last.task, retried_id(last.task.task_id, last.ended_at)
            outcome = self._outcome(following)
            if outcome is None or outcome.state is TaskState.SUCCEEDED:
                return Retry(origin=origin, task_id=following, outcome=outcome)
            last = outcome
        raise RetriedOftenError(last.task.task_id)

    def ended(self, task_id: str, tenant_id: str) -> Outcome:
        """The end of a tenant's task. Raises as ``find`` does."""
        if not is_task_id(task_id):
            raise TaskNotFoundError
        outcome = self._outcome(task_id)
        if outcome is not None and outcome.task.tenant_id == tenant_id:
            return outcome
        # Only of the tenant's own tasks is it told that they are open: to others they do not exist.
        if self._open_tasks.owner(task_id) == tenant_id:
            raise TaskNotEndedError
        raise TaskNotFoundError

    def _outcome(self, task_id: str) -> Outcome | None:
        try:
            return self._records.outcome(task_id)
        except DecodeError as exc:
            message = f"the outcome cannot be read: {exc.message}"
            raise StorageError(message) from exc


def tried_again(origin: TaskMessage, task: TaskMessage) -> TaskMessage:
    """The task as another try of ``origin``."""
    inherited = {"callback": origin.callback, "callback_events": origin.callback_events}
    params = task.params.model_copy(update=origin.params.model_dump(include={"quality", "quality_asked"}))
    return task.model_copy(update={"retry_of": origin.task_id, "params": params, **inherited})
