"""The loop over ``status.returned``, and how a process runs its loops side by side."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from shared.domain.errors import BrokerError, ConfigurationError, StorageError
from shared.lifecycle import ExitCode
from shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from services.status.consumer.returned import ReturnedTasks
    from shared.lifecycle import StopSignal
    from shared.messaging.ports import BatchConsumer

log = get_logger(__name__)

TAKE_SECONDS: Final = 1.0
JOIN_SECONDS: Final = 15.0
_FIRST_BACKOFF_SECONDS: Final = 0.5
_LONGEST_BACKOFF_SECONDS: Final = 10.0


class ReturnedLoop:
    """Takes one returned task after the other; what cannot be settled now goes back to the queue for a while."""

    def __init__(self, *, consumer: BatchConsumer, tasks: ReturnedTasks, prove_store: Callable[[], None]) -> None:
        self._consumer = consumer
        self._tasks = tasks
        self._prove_store = prove_store
        self._backoff = 0.0

    def run(self, stop: StopSignal) -> None:
        """Work until told to stop. The store is proved first, here, so that events flow even while it is away."""
        proved = False
        while not stop.is_set():
            try:
                if not proved:
                    self._prove_store()
                    proved = True
                self._take()
            except ConfigurationError as exc:
                log.error("configuration_error", error_message=exc.message)  # noqa: TRY400 - the stack says nothing
                stop.request(ExitCode.CONFIGURATION)
            except (BrokerError, StorageError) as exc:
                self._backoff = min(max(self._backoff * 2, _FIRST_BACKOFF_SECONDS), _LONGEST_BACKOFF_SECONDS)
                log.warning(
                    "returned_failed", error_code=exc.code, error_message=exc.message, retry_seconds=self._backoff
                )
                stop.wait(self._backoff)

    def _take(self) -> None:
        for delivery in self._consumer.take_batch(1, TAKE_SECONDS):
            try:
                self._tasks.handle(delivery)
            except (BrokerError, StorageError):
                self._consumer.requeue(delivery)
                raise
            self._backoff = 0.0


def run_together(loops: Sequence[Callable[[StopSignal], None]], stop: StopSignal) -> None:
    """Run each loop in a thread of its own until all have ended; when one crashes, the others are told to stop."""
    threads = [
        threading.Thread(target=_guarded, args=(loop, stop), name=f"loop-{number}", daemon=True)
        for number, loop in enumerate(loops)
    ]
    for thread in threads:
        thread.start()
    while not stop.wait(JOIN_SECONDS):
        pass
    for thread in threads:
        thread.join(JOIN_SECONDS)


def _guarded(loop: Callable[[StopSignal], None], stop: StopSignal) -> None:
    try:
        loop(stop)
    except Exception:  # a thread's boundary: without this one loop would end and nobody would know
        log.exception("loop_crashed")
        stop.request(ExitCode.CRASHED)
