"""Messages that cannot be read are parked for operators, with the reason and where they came from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shared.logging import get_logger
from shared.messaging import messages

if TYPE_CHECKING:
    from services.status.consumer.metrics import ConsumerMetrics
    from shared.domain.errors import DecodeError
    from shared.messaging.ports import Delivery, Publisher

log = get_logger(__name__)

HEADER_EXCHANGE: Final = "x-atelier-exchange"
HEADER_ROUTING_KEY: Final = "x-atelier-routing-key"
PUBLISH_SECONDS: Final = 10.0


class Parking:
    """Sends messages to ``atelier.dead``."""

    def __init__(self, publisher: Publisher, metrics: ConsumerMetrics) -> None:
        self._publisher = publisher
        self._metrics = metrics

    def park(self, delivery: Delivery, error: DecodeError) -> None:
        """Return once the broker has it. The delivery itself is still to be acked. Raises BrokerError."""
        message = messages.dead(
            delivery.body,
            message_id=delivery.message_id or "",
            reason=error.code,
            detail=error.message,
            headers={HEADER_EXCHANGE: delivery.exchange, HEADER_ROUTING_KEY: delivery.routing_key},
        )
        self._publisher.publish(message, timeout=PUBLISH_SECONDS)
        self._metrics.parked.labels(reason=error.code).inc()
        log.warning(
            "message_parked", message_id=delivery.message_id, error_code=error.code, error_message=error.message
        )
