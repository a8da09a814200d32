"""The worker's main loop: ready, take one, compute it, hand it to the finisher, again."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from services.worker.errors import RunnerLoadError, WorkFolderError
from shared.contracts.worker_report import WorkerState
from shared.domain.errors import AtelierError, BrokerError, ConfigurationError, StorageError
from shared.lifecycle import ExitCode
from shared.logging import get_logger, unbind_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.worker.finisher import Finisher
    from services.worker.handler import TaskHandler
    from services.worker.metrics import WorkerMetrics
    from services.worker.ports import Runner
    from shared.lifecycle import StopSignal
    from shared.messaging.ports import Delivery, SingleConsumer

log = get_logger(__name__)

_TAKE_SECONDS: Final = 1.0
_FIRST_BACKOFF_SECONDS: Final = 0.5
_LONGEST_BACKOFF_SECONDS: Final = 10.0
_UNAVAILABLE: Final[dict[type[AtelierError], ExitCode]] = {
    RunnerLoadError: ExitCode.RUNNER,
    ConfigurationError: ExitCode.CONFIGURATION,
    WorkFolderError: ExitCode.DEPENDENCY,
}


class WorkerLoop:
    """At most one task computes and at most one is finishing; none waits here that another worker could take."""

    def __init__(
        self,
        *,
        consumer: SingleConsumer,
        runner: Runner,
        handler: TaskHandler,
        finisher: Finisher,
        metrics: WorkerMetrics,
        tell: Callable[[WorkerState], None] = lambda _state: None,
    ) -> None:
        self._consumer = consumer
        self._runner = runner
        self._handler = handler
        self._finisher = finisher
        self._metrics = metrics
        self._tell = tell
        self._backoff = 0.0

    def run(self, stop: StopSignal) -> None:
        """Work until told to stop, or until the child cannot be brought up (then with an exit code that says so)."""
        try:
            self._run(stop)
        finally:
            self._tell(WorkerState.DRAINING)
            self._finisher.stop()

    def _run(self, stop: StopSignal) -> None:
        backlog = False
        while not stop.is_set():
            try:
                self._runner.ensure_ready()
            except tuple(_UNAVAILABLE) as exc:
                log.error("runner_unavailable", error_code=exc.code, error_message=exc.message)  # noqa: TRY400 - the stack says nothing
                stop.request(next(code for kind, code in _UNAVAILABLE.items() if isinstance(exc, kind)))
            if stop.is_set() or not self._has_room(stop):
                continue
            if not backlog:
                self._tell(WorkerState.READY)
            delivery = self._consumer.take(_TAKE_SECONDS)
            # With more to do it stays busy: a report between any two tasks would only be in the next one's way.
            backlog = delivery is not None
            if delivery is not None and (stop.is_set() or not self._runner.ready):
                # A child that died, or is to be replaced, while nothing was to be done costs this task no attempt.
                self._handler.give_back(delivery)
            elif delivery is not None:
                self._work(delivery)
                unbind_all()
                stop.wait(self._backoff)

    def _has_room(self, stop: StopSignal) -> bool:
        planner = self._handler.planner
        if planner.has_room():
            return True
        if planner.broken:
            log.error("device_broken")
            stop.request(ExitCode.DEPENDENCY)
        stop.wait(planner.pause_seconds)
        return False

    def _work(self, delivery: Delivery) -> None:
        began = time.monotonic()
        self._tell(WorkerState.BUSY)
        try:
            with self._metrics.computing.track_inprogress():
                running = self._handler.handle(delivery)
        except (BrokerError, StorageError, WorkFolderError) as exc:
            # Nothing was begun, or it was and its claim says so: give the message back, and breathe before the next.
            self._backoff = min(max(self._backoff * 2, _FIRST_BACKOFF_SECONDS), _LONGEST_BACKOFF_SECONDS)
            log.warning("delivery_failed", error_code=exc.code, error_message=exc.message, backoff=self._backoff)
            self._handler.give_back(delivery)
            return
        self._backoff = 0.0
        if running is not None:
            self._metrics.busy_seconds.inc(time.monotonic() - began)
            self._finisher.submit(running)
