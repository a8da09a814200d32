"""Ends a task because its client says so. The conditional write decides the race with every other end."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from services.status.ending import Ending
from services.status.errors import StatusLaggingError, TaskEndedError, ViewStoreError
from services.status.projection import apply
from shared.contracts.base import decode
from shared.contracts.control import ControlMessage, Order
from shared.contracts.event import ended_event
from shared.contracts.outcome import ErrorInfo
from shared.contracts.task import TaskMessage
from shared.domain.errors import BrokerError, DecodeError, StorageError
from shared.domain.settle import ClaimMark
from shared.domain.task import TaskState
from shared.logging import get_logger
from shared.messaging import messages

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.status.store.ports import TaskViewStore, WorkStore
    from services.status.view import TaskView
    from shared.clock import Clock
    from shared.contracts.event import TaskEvent
    from shared.contracts.outcome import Outcome
    from shared.messaging.ports import Publisher
    from shared.storage.records import TaskRecords

log = get_logger(__name__)

AUTHOR: Final = "status-api"
CANCELLED: Final = ErrorInfo(code="cancelled", message="the task was cancelled by its client")
# The end stands whether or not this is confirmed, so no client waits long for it.
PUBLISH_SECONDS: Final = 2.0
# What one end tells says nothing of the others made before it.
_SEEN_NOTHING: Final = datetime.fromtimestamp(0, UTC)


class Cancelling:
    """Cancels tasks. ``prove_store`` proves, before the first one, that of two conditional writes one is refused."""

    def __init__(
        self,
        *,
        views: TaskViewStore,
        work: WorkStore,
        records: TaskRecords,
        publisher: Publisher,
        clock: Clock,
        prove_store: Callable[[], None],
    ) -> None:
        self._views = views
        self._work = work
        self._records = records
        self._publisher = publisher
        self._clock = clock
        self._prove_store = prove_store
        self._proved = False
        self._ending = Ending(records=records, publisher=publisher, clock=clock, author=AUTHOR)

    def cancel(self, view: TaskView) -> TaskView:
        """The task as it is once it is cancelled, now or earlier.

        Raises TaskEndedError when it ended in another way, StatusLaggingError while its message is not known yet,
        ViewStoreError, StorageError.
        """
        ended = view if view.state.is_final else self._end(view)
        if ended.state is not TaskState.CANCELLED:
            raise TaskEndedError(ended.state)
        return ended

    def _end(self, view: TaskView) -> TaskView:
        outcome = self._commit(view.task_id)
        log.info("task_cancelled" if outcome.state is TaskState.CANCELLED else "cancel_lost", state=outcome.state)
        event = ended_event(outcome)
        self._tell(event, outcome)
        self._show(event)
        return apply(view, event)

    def _commit(self, task_id: str) -> Outcome:
        if not self._proved:
            self._prove_store()
            self._proved = True
        task = self._task(task_id)
        try:
            standing = self._records.outcome(task_id) if task is None else self._cancelled(task)
        except DecodeError as exc:
            message = f"the claim or the outcome cannot be read: {exc.message}"
            raise StorageError(message) from exc
        if standing is None:
            raise StatusLaggingError
        return standing

    def _task(self, task_id: str) -> TaskMessage | None:
        """Its message, of the attempt that waits or runs; None where no event has told it, or it has just ended."""
        work = self._work.find(task_id)
        if work is None or not work.document:
            return None
        try:
            return decode(TaskMessage, work.document.encode())
        except DecodeError as exc:
            raise ViewStoreError(exc.message) from exc

    def _cancelled(self, task: TaskMessage) -> Outcome:
        # The device's time that it took is its tenant's, so the end says since when it ran.
        claim = self._records.find_claim(task.task_id, task.attempt)
        started_at = claim.at if claim is not None and claim.mark is ClaimMark.RUN else None
        return self._ending.commit(task, TaskState.CANCELLED, CANCELLED, started_at=started_at)

    def _tell(self, event: TaskEvent, outcome: Outcome) -> None:
        told = [messages.event(event)]
        if outcome.state is TaskState.CANCELLED:
            stop = ControlMessage(order=Order.CANCEL, task_id=event.task_id, at=self._clock())
            told.append(messages.order(stop))
        try:
            self._publisher.publish(*told, timeout=PUBLISH_SECONDS)
        except BrokerError as exc:
            # Whoever meets the task's message finds the outcome and tells it; a worker that computes it looks as well.
            log.warning("cancel_not_told", error_code=exc.code, error_message=exc.message)

    def _show(self, event: TaskEvent) -> None:
        """Let whoever asks next see the end, before its event has come round."""
        try:
            self._views.apply_events([event], seen_until=_SEEN_NOTHING)
        except ViewStoreError as exc:
            log.warning("cancel_not_shown", error_code=exc.code, error_message=exc.message)
