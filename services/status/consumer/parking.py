"""Messages that cannot be used are parked for operators, with the reason and where they came from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shared.contracts.base import decode
from shared.contracts.dead import Origin, letter_of_body, letter_of_task
from shared.contracts.outcome import ErrorInfo
from shared.contracts.task import TaskMessage
from shared.domain.errors import DecodeError
from shared.logging import get_logger
from shared.messaging import messages

if TYPE_CHECKING:
    from services.status.consumer.metrics import ConsumerMetrics
    from shared.clock import Clock
    from shared.contracts.dead import DeadLetter
    from shared.domain.errors import AtelierError
    from shared.messaging.ports import Delivery, Publisher

log = get_logger(__name__)

AUTHOR: Final = "status-consumer"
PUBLISH_SECONDS: Final = 10.0


class Parking:
    """Sends messages to ``atelier.dead``."""

    def __init__(self, publisher: Publisher, metrics: ConsumerMetrics, clock: Clock) -> None:
        self._publisher = publisher
        self._metrics = metrics
        self._clock = clock

    def park(self, delivery: Delivery, error: AtelierError) -> None:
        """Return once the broker has it. The delivery itself is still to be acked. Raises BrokerError."""
        self._publisher.publish(messages.dead(self._letter(delivery, error)), timeout=PUBLISH_SECONDS)
        self._metrics.parked.labels(reason=error.code).inc()
        log.warning(
            "message_parked", message_id=delivery.message_id, error_code=error.code, error_message=error.message
        )

    def _letter(self, delivery: Delivery, error: AtelierError) -> DeadLetter:
        info = ErrorInfo(code=error.code, message=error.message)
        parked = (AUTHOR, self._clock())
        task = _task(delivery.body)
        if task is not None:  # it is its claim or its outcome that cannot be read
            return letter_of_task(task, info, attempts=(), parked=parked)
        origin = Origin(exchange=delivery.exchange, routing_key=delivery.routing_key, message_id=delivery.message_id)
        return letter_of_body(delivery.body, info, origin=origin, parked=parked)


def _task(body: bytes) -> TaskMessage | None:
    try:
        return decode(TaskMessage, body)
    except DecodeError:
        return None
