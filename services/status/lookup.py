"""Finding a task for a tenant, also one that was accepted a moment ago and whose news is still under way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.status.errors import StatusLaggingError, TaskNotFoundError
from services.status.projection import apply
from shared.contracts.event import ended_event
from shared.domain.errors import DecodeError, StorageError
from shared.domain.plans import is_anonymous
from shared.domain.task import TaskState
from shared.ids import is_task_id, task_id_seconds

if TYPE_CHECKING:
    from services.status.store.ports import TaskViewStore
    from services.status.view import TaskView
    from services.status.waiting import ViewWaiter
    from services.status.work import Standing
    from shared.clock import Clock
    from shared.storage.records import TaskRecords

# An id as young as this may belong to a task whose first event is still under way.
RECENT_SECONDS: Final = 30.0
AWAIT_SECONDS: Final = 2.0
_WAITING: Final = frozenset({TaskState.QUEUED, TaskState.RETRYING})


class TaskFinder:
    """Answers what the view knows of a task, or else the bucket."""

    def __init__(self, *, store: TaskViewStore, waiter: ViewWaiter, records: TaskRecords, clock: Clock) -> None:
        self._store = store
        self._waiter = waiter
        self._records = records
        self._clock = clock

    def find(self, task_id: str, tenant_id: str, *, wait_seconds: float = 0) -> TaskView:
        """The task as it is, or as it is at its end when that comes within ``wait_seconds``.

        A task of the anonymous plan is anybody's who knows its id.

        Raises TaskNotFoundError (also for another tenant's task), StatusLaggingError when its news may still be under
        way, ViewStoreError, StorageError.
        """
        asked_at = self._clock().timestamp()
        if not is_task_id(task_id):
            raise TaskNotFoundError
        view = self._store.get(task_id) or self._unseen(task_id, asked_at)
        # Who has no key to show again has the id, which nobody guesses.
        if view.tenant_id != tenant_id and not is_anonymous(view.tenant_id):
            raise TaskNotFoundError
        if wait_seconds > 0 and not view.state.is_final:
            view = self._waiter.wait_for_end(task_id, wait_seconds) or view
        return view

    def standing(self, view: TaskView) -> Standing | None:
        """Where a task stands in its model's queue; None for one that does not wait. Raises ViewStoreError."""
        return self._store.standing(view.task_id, self._clock()) if view.state in _WAITING else None

    def _unseen(self, task_id: str, asked_at: float) -> TaskView:
        age = asked_at - task_id_seconds(task_id)
        if age < -RECENT_SECONDS:
            raise TaskNotFoundError
        if age <= RECENT_SECONDS:
            return (
                self._await_first_news(task_id, asked_at) or self._from_bucket(task_id) or self._last(task_id, asked_at)
            )
        # It ended long ago; or it is a retry, whose id is as old as the end of the task that it retries.
        return self._from_bucket(task_id) or self._await_first_news(task_id, asked_at) or self._last(task_id, asked_at)

    def _await_first_news(self, task_id: str, asked_at: float) -> TaskView | None:
        return self._waiter.wait_for(task_id, lambda view: view is not None or self._has_seen(asked_at), AWAIT_SECONDS)

    def _from_bucket(self, task_id: str) -> TaskView | None:
        try:
            outcome = self._records.outcome(task_id)
        except DecodeError as exc:
            message = f"the outcome cannot be read: {exc.message}"
            raise StorageError(message) from exc
        return None if outcome is None else apply(None, ended_event(outcome))

    def _last(self, task_id: str, asked_at: float) -> TaskView:
        # Read before the view: what is seen afterwards may have come in between.
        seen = self._has_seen(asked_at)
        view = self._store.get(task_id)
        if view is not None:
            return view
        raise TaskNotFoundError if seen else StatusLaggingError

    def _has_seen(self, asked_at: float) -> bool:
        """Whether the view knows all that was sent before the question.

        Clients know an id only after its queued event was confirmed, so what it lacks then is no task.
        """
        seen_until = self._store.seen_until()
        return seen_until is not None and seen_until.timestamp() >= asked_at
