"""How many messages wait in queues, by the broker itself, at most about a quarter of a second old."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from pika.exceptions import AMQPError

from shared.domain.errors import BrokerError, BrokerUnavailableError
from shared.logging import get_logger
from shared.messaging.connection import ConnectionThread

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pika.adapters.blocking_connection import BlockingChannel

log = get_logger(__name__)

# While the ledger is away, gateways pass the bound by what the others take in this time. Asking costs about 1 ms.
_FRESH_SECONDS: Final = 0.25
_ANSWER_SECONDS: Final = 0.5
_COUNT_SECONDS: Final = 5.0


class ReadyCounts:
    """Counts messages, and says when it cannot.

    A passive declaration needs no right on the queue up to RabbitMQ 4.2, and any one from 4.3 on.
    """

    def __init__(self, url: str, name: str) -> None:
        self._thread = ConnectionThread(url, name)

    def start(self) -> None:
        """Begin to connect, in the background."""
        self._thread.start()

    def stop(self) -> None:
        """Close the connection."""
        self._thread.stop()

    def ready(self, queue: str, *, timeout: float = _COUNT_SECONDS) -> int:
        """Messages that lie ready in a queue. Raises BrokerError, also where there is no such queue."""
        try:
            return self._thread.call(lambda channel: _count(channel, queue), timeout)
        except AMQPError as exc:
            message = f"{queue} was not counted: {type(exc).__name__}"
            raise BrokerUnavailableError(message) from exc


class QueueDepths:
    """Asks only when somebody wants to know."""

    def __init__(self, url: str, name: str, queues: Mapping[str, str]) -> None:
        self._queues = queues
        self._counts = ReadyCounts(url, name)
        self._lock = threading.Lock()
        self._known: dict[str, tuple[int, float]] = {}

    def start(self) -> None:
        """Begin to connect, in the background."""
        self._counts.start()

    def stop(self) -> None:
        """Close the connection."""
        self._counts.stop()

    def read(self, model: str) -> tuple[int, float]:
        """Messages ready in a model's queue, and the monotonic time at which they were counted.

        While the broker does not answer that is the last count, or none: nothing can be published then either.
        """
        with self._lock:
            depth, read_at = self._known.get(model, (0, float("-inf")))
            if time.monotonic() - read_at < _FRESH_SECONDS:
                return depth, read_at
            asked_at = time.monotonic()
            try:
                depth = self._counts.ready(self._queues[model], timeout=_ANSWER_SECONDS)
            except BrokerError as exc:
                log.warning("depth_unknown", model=model, error_message=repr(exc))
            self._known[model] = depth, asked_at
            return depth, asked_at


def _count(channel: BlockingChannel, queue: str) -> int:
    return int(channel.queue_declare(queue, passive=True).method.message_count)
