"""The loop over ``status.events``: a batch is decoded, applied in one transaction, and then acked as a whole.

What cannot be read, or has no place in the database, is parked alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.status.errors import UnstorableError, ViewStoreError
from shared.contracts.base import decode
from shared.contracts.event import TaskEvent
from shared.domain.errors import BrokerError, DecodeError
from shared.domain.task import EventType
from shared.ids import trace_id_of
from shared.lifecycle import ExitCode
from shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from services.status.consumer.metrics import ConsumerMetrics
    from services.status.consumer.parking import Parking
    from services.status.store.ports import TaskViewStore
    from shared.clock import Clock
    from shared.domain.errors import AtelierError
    from shared.lifecycle import StopSignal
    from shared.messaging.ports import BatchConsumer, Delivery

    Readable = tuple[Delivery, TaskEvent]

log = get_logger(__name__)

BATCH_EVENTS: Final = 500
TAKE_SECONDS: Final = 0.5
# After the last of these the process ends, and its supervisor starts it anew.
STORE_BACKOFF_SECONDS: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 5.0, 5.0)
PARK_BACKOFF_SECONDS: Final = 1.0


class EventLoop:
    """Applies events to the view. Nothing is acked before it is committed, so that dying anywhere only repeats work."""

    def __init__(
        self,
        *,
        consumer: BatchConsumer,
        connected: Callable[[], bool],
        store: TaskViewStore,
        parking: Parking,
        metrics: ConsumerMetrics,
        clock: Clock,
    ) -> None:
        self._consumer = consumer
        self._connected = connected
        self._store = store
        self._parking = parking
        self._metrics = metrics
        self._clock = clock
        self._idle_since: datetime | None = None

    def run(self, stop: StopSignal) -> None:
        """Work until told to stop, or until the database stays away (then with an exit code that says so)."""
        while not stop.is_set():
            began, connected = self._clock(), self._connected()
            batch = self._consumer.take_batch(BATCH_EVENTS, TAKE_SECONDS)
            if batch:
                self._idle_since = None
                self.work(batch, stop)
            else:
                self._note_idle(began, stop, connected=connected and self._connected())

    def work(self, batch: list[Delivery], stop: StopSignal) -> None:
        """Apply, park and settle one batch, in this order."""
        readable: list[Readable] = []
        useless: list[tuple[Delivery, AtelierError]] = []
        for delivery in batch:
            try:
                readable.append((delivery, decode(TaskEvent, delivery.body)))
            except DecodeError as exc:
                useless.append((delivery, exc))
        if readable:
            refused = self._apply(readable, stop)
            if refused is None:
                return
            useless += refused
        unparked = {delivery.tag for delivery, error in useless if not self._park(delivery, error)}
        settled = [delivery for delivery in batch if delivery.tag not in unparked]
        if settled:
            # The tag itself must be outstanding still, hence the last one that was not given back.
            self._consumer.ack(settled[-1], multiple=True)
        if unparked:
            stop.wait(PARK_BACKOFF_SECONDS)

    def _apply(self, readable: list[Readable], stop: StopSignal) -> list[tuple[Delivery, AtelierError]] | None:
        """What the database has no place for; None when the rest is not applied either."""
        events = [event for _, event in readable]
        now = self._clock()
        # The clock of whoever made an event may be fast; what is still to come has not been seen.
        newest = min(now, max(event.at for event in events))
        try:
            if not self._store_events(events, newest, stop):
                return None
        except UnstorableError as exc:
            if len(readable) == 1:
                return [(readable[0][0], exc)]
            return self._apply_singly(readable, newest, stop)
        self._note_applied(events, now)
        return []

    def _apply_singly(
        self, readable: list[Readable], newest: datetime, stop: StopSignal
    ) -> list[tuple[Delivery, AtelierError]] | None:
        refused: list[tuple[Delivery, AtelierError]] = []
        for one in readable:
            found = self._apply([one], stop)
            if found is None:
                return None
            refused += found
        return refused if self._store_events([], newest, stop) else None

    def _note_applied(self, events: list[TaskEvent], now: datetime) -> None:
        self._metrics.batch_size.observe(len(events))
        for event in events:
            self._metrics.applied.labels(type=event.type).inc()
            self._metrics.lag.observe(max(0.0, (now - event.at).total_seconds()))
            note = log.debug if event.type is EventType.PROGRESS else log.info
            note(
                "event_applied",
                task_id=event.task_id,
                tenant_id=event.tenant_id,
                request_id=event.request_id,
                trace_id=trace_id_of(event.traceparent) if event.traceparent else None,
                event_type=event.type,
                attempt=event.attempt,
            )

    def _store_events(self, events: list[TaskEvent], seen_until: datetime, stop: StopSignal) -> bool:
        for seconds in STORE_BACKOFF_SECONDS:
            try:
                self._store.apply_events(events, seen_until=seen_until)
            except UnstorableError:
                raise
            except (TypeError, ValueError, ArithmeticError) as exc:
                # What follows from an event cannot be told: it is the event's fault, and none but that one is parked.
                message = f"{type(exc).__name__}: {exc}"
                raise UnstorableError(message) from exc
            except ViewStoreError as exc:
                log.warning("view_store_failed", error_message=exc.message, retry_seconds=seconds)
                if stop.wait(seconds):
                    return False
            else:
                return True
        log.error("view_store_unavailable")
        stop.request(ExitCode.DEPENDENCY)
        return False

    def _note_idle(self, began: datetime, stop: StopSignal, *, connected: bool) -> None:
        # Twice in a row nothing came: everything sent before the first of the two waits has been applied. Once is not
        # enough, since the connection may have broken and come back within it.
        if connected and self._idle_since is not None:
            self._store_events([], self._idle_since, stop)
        self._idle_since = began if connected else None

    def _park(self, delivery: Delivery, error: AtelierError) -> bool:
        """Whether it was parked; if not, it is back in its queue."""
        try:
            self._parking.park(delivery, error)
        except BrokerError as exc:
            log.warning("park_failed", error_code=exc.code, error_message=exc.message)
            self._consumer.requeue(delivery)
            return False
        return True
