"""Round after round over what is due, by any number of senders at once."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from services.status.errors import ViewStoreError
from services.status.webhooks.deliveries import DeliveryState
from services.status.webhooks.ports import Hold
from shared.ids import new_execution_id
from shared.lifecycle import ExitCode
from shared.logging import bound, get_logger

if TYPE_CHECKING:
    from datetime import datetime

    from services.status.webhooks.courier import Courier, Result
    from services.status.webhooks.crowd import Crowd
    from services.status.webhooks.deliveries import Delivery
    from services.status.webhooks.metrics import WebhookMetrics
    from services.status.webhooks.ports import DeliveryStore
    from shared.clock import Clock
    from shared.lifecycle import StopSignal

log = get_logger(__name__)

# Lines that one look goes through, and rows that are given up or forgotten at once.
_LINES: Final = 500
_ROWS: Final = 500
_TIDY_SECONDS: Final = 60.0
_RETRY_SECONDS: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds between two looks when there is nothing to do, and for which a delivery is this sender's alone."""

    look: float = 0.5
    hold: float = 45.0


class Sender:
    """Takes due deliveries, and makes each in a thread."""

    def __init__(
        self,
        *,
        store: DeliveryStore,
        courier: Courier,
        crowd: Crowd,
        metrics: WebhookMetrics,
        clock: Clock,
        pace: Pace,
    ) -> None:
        self._store = store
        self._courier = courier
        self._crowd = crowd
        self._metrics = metrics
        self._clock = clock
        self._pace = pace
        self._holder = new_execution_id()
        self._behind = ""
        self._tidied: datetime | None = None
        self._woken = threading.Event()

    def run(self, stop: StopSignal, threads: int) -> None:
        """Work until told to stop, and finish what is under way then."""
        with ThreadPoolExecutor(threads, thread_name_prefix="callback") as pool:
            while not stop.is_set():
                self._woken.clear()
                try:
                    busy = self.look(pool, stop)
                except ViewStoreError as exc:
                    self._metrics.failed.labels(step="look").inc()
                    log.warning("callbacks_not_looked_for", error_code=exc.code, error_message=exc.message)
                    busy = False
                if not busy:
                    self._woken.wait(self._pace.look)

    def look(self, pool: ThreadPoolExecutor, stop: StopSignal) -> bool:
        """Begin what is due and has a place; whether there may be more at once. Raises ViewStoreError."""
        now = self._clock()
        self._tidy(now)
        lines = self._store.lines(self._behind, _LINES)
        more = len(lines) == _LINES
        self._behind = lines[-1].name if more else ""
        wanted = self._crowd.places([line for line in lines if line.first_due <= now], now)
        self._metrics.left_alone.set(self._crowd.left_alone(now))
        if not wanted:
            return more
        until = now + timedelta(seconds=self._pace.hold)
        taken = self._store.take(wanted, Hold(holder=self._holder, now=now, until=until))
        for delivery in taken:
            self._crowd.begin(delivery.line)
            self._metrics.under_way.set(self._crowd.under_way)
            pool.submit(self._make, delivery).add_done_callback(lambda future: self._done(future, stop))
        return more or bool(taken)

    def _make(self, delivery: Delivery) -> None:
        notice, healthy = delivery.notice, None
        with bound(task_id=notice.task_id, tenant_id=notice.tenant_id):
            try:
                result = self._courier.deliver(delivery)
                healthy = result.healthy
                self._settle(delivery, result)
            except ViewStoreError as exc:
                # Its hold runs out, and then it is made again.
                self._metrics.failed.labels(step="settle").inc()
                log.warning("callback_not_settled", webhook_id=notice.webhook_id, error_message=exc.message)
            finally:
                self._crowd.end(delivery.line, healthy=healthy, now=self._clock())
                self._metrics.under_way.set(self._crowd.under_way)
                self._woken.set()

    def _done(self, future: Future[None], stop: StopSignal) -> None:
        error = future.exception()
        if error is not None:
            log.error("callback_crashed", exc_info=error)
            stop.request(ExitCode.CRASHED)

    def _settle(self, before: Delivery, result: Result) -> None:
        delivery = result.delivery
        self._tell(before, delivery)
        while True:
            try:
                kept = self._store.settle(delivery, self._holder, disable=result.disable)
            except ViewStoreError:
                if self._clock() >= before.due_at:
                    raise
                time.sleep(_RETRY_SECONDS)
            else:
                break
        if not kept:
            log.warning("callback_taken_by_another", webhook_id=delivery.notice.webhook_id)
        elif delivery.state is not DeliveryState.PENDING:
            self._metrics.ended.labels(state=delivery.state).inc()

    def _tell(self, before: Delivery, after: Delivery) -> None:
        attempt = after.attempts[-1]
        result = attempt.error or f"{(attempt.status or 0) // 100}xx"
        self._metrics.tries.labels(result=result).inc()
        self._metrics.seconds.observe(attempt.seconds)
        if not before.attempts:
            self._metrics.lag.observe(max(0.0, (attempt.at - after.notice.created_at).total_seconds()))
        log.info(
            "callback_tried",
            webhook_id=after.notice.webhook_id,
            host=after.host,
            tries=after.tries,
            state=after.state,
            status=attempt.status,
            seconds=attempt.seconds,
            error_code=attempt.error,
        )

    def _tidy(self, now: datetime) -> None:
        if self._tidied is not None and (now - self._tidied).total_seconds() < _TIDY_SECONDS:
            return
        given_up = self._store.give_up_old(now, _ROWS)
        if given_up:
            self._metrics.ended.labels(state=DeliveryState.GIVEN_UP).inc(given_up)
            log.info("callbacks_given_up", count=given_up)
        if given_up < _ROWS:
            self._tidied = now
