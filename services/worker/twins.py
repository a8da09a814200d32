"""The same work is done once: a task whose twin has the result takes it, one whose twin is at it waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.contracts.cache import Sameness, cache_key, scope_of
from shared.domain.errors import DecodeError
from shared.domain.settle import may_await_twin
from shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client import Counter

    from shared.clock import Clock
    from shared.contracts.task import TaskMessage
    from shared.storage.work_index import Twin, WorkIndex

log = get_logger(__name__)


class Twins:
    """Looks for the twins of cacheable tasks. ``revision`` is that of the model that this worker has loaded.

    ``reused`` counts the results that are taken.
    """

    def __init__(self, index: WorkIndex, revision: Callable[[], str | None], reused: Counter, clock: Clock) -> None:
        self._index = index
        self._reused = reused
        self._revision = revision
        self._clock = clock

    def ahead_of(self, task: TaskMessage) -> Twin | None:
        """The task that has done this one's work, or is at it; None: this one has to do it. Raises StorageError."""
        sameness = None if task.cache_key is None else self._sameness(task)
        if task.cache_key is None or sameness is None:
            return None
        now = self._clock()
        try:
            twin = self._index.lead(task.cache_key, task.task_id, now)
            if twin is None and sameness is Sameness.SEED:
                # A result of a certain seed is one for those who take any, unless they have one.
                self._index.lead(self._key(task, Sameness.ANY), task.task_id, now)
        except DecodeError as exc:
            log.warning("work_index_unreadable", cache_key=task.cache_key, error_message=exc.message)
            return None
        if twin is None:
            return None
        if twin.outcome is not None:
            self._reused.inc()
            return twin
        deadline = task.start_deadline if task.attempt == 1 else task.finish_deadline
        return twin if may_await_twin(now, task.submitted_at, deadline) else None

    def _sameness(self, task: TaskMessage) -> Sameness | None:
        """None where the gateway knew another revision: then the work is not the one that its key names."""
        return next((each for each in Sameness if self._key(task, each) == task.cache_key), None)

    def _key(self, task: TaskMessage, sameness: Sameness) -> str:
        return cache_key(scope_of(task.cache_key or ""), task.model, self._revision() or "", task.params, sameness)
