"""Sends a task's passing news in the background, so that a slow broker never slows the computation.

Only the end of a task must arrive, and that is published by whoever settles the delivery. What is passed on here may be
dropped: when news pile up, the older progress of a task makes room for the newer.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Final

from shared.domain.errors import BrokerError
from shared.domain.task import EventType
from shared.logging import bound, get_logger
from shared.messaging.messages import event as event_message

if TYPE_CHECKING:
    from shared.contracts.event import TaskEvent
    from shared.messaging.ports import Publisher

log = get_logger(__name__)

_PUBLISH_SECONDS: Final = 5.0
_MOST_WAITING: Final = 64


class EventRelay:
    """An EventSink with a thread of its own."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self._waiting: deque[TaskEvent] = deque()
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="event-relay", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def stop(self) -> None:
        """Send what waits, then end."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(_PUBLISH_SECONDS)

    def offer(self, event: TaskEvent) -> None:
        """See EventSink."""
        with self._changed:
            newest = self._waiting[-1] if self._waiting else None
            if newest is not None and _supersedes(event, newest):
                self._waiting.pop()
                event = _with_preview(event, newest)
            self._waiting.append(event)
            if len(self._waiting) > _MOST_WAITING:
                dropped = self._waiting.popleft()
                log.warning("event_dropped", event_type=dropped.type, dropped_task_id=dropped.task_id)
            self._changed.notify()

    def _run(self) -> None:
        while (event := self._next()) is not None:
            try:
                self._publisher.publish(event_message(event), timeout=_PUBLISH_SECONDS)
            except BrokerError as exc:
                with bound(task_id=event.task_id, tenant_id=event.tenant_id, attempt=event.attempt):
                    log.warning("event_not_sent", event_type=event.type, error_code=exc.code, error_message=exc.message)

    def _next(self) -> TaskEvent | None:
        with self._changed:
            while not self._waiting:
                if self._stopping:
                    return None
                self._changed.wait()
            return self._waiting.popleft()


def _supersedes(newer: TaskEvent, older: TaskEvent) -> bool:
    return newer.type is older.type is EventType.PROGRESS and newer.task_id == older.task_id


def _with_preview(newer: TaskEvent, older: TaskEvent) -> TaskEvent:
    """A preview comes with few of a task's news, and goes on with the next when its own are passed over."""
    progress, passed = newer.data.progress, older.data.progress
    if progress is None or passed is None or passed.preview is None or progress.preview is not None:
        return newer
    shown = progress.model_copy(update={"preview": passed.preview})
    return newer.model_copy(update={"data": newer.data.model_copy(update={"progress": shown})})
