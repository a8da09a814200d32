"""Tasks that came back from a work queue: rejected as undecodable, or past the broker's bound in time.

The bucket says what became of each. The order is that of every delivery: outcome, event, ack; dying between any two
repeats work and harms nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.status.consumer.parking import AUTHOR
from services.status.ending import PUBLISH_SECONDS, Ending
from shared.contracts.base import decode
from shared.contracts.task import TaskMessage
from shared.domain.errors import DecodeError, NewerSchemaError
from shared.domain.settle import (
    COPY_WAIT_SECONDS,
    ClaimMark,
    Contested,
    Start,
    copy_wait_seconds,
    decide_start,
)
from shared.logging import bound, get_logger
from shared.messaging import messages

if TYPE_CHECKING:
    from services.status.consumer.metrics import ConsumerMetrics
    from services.status.consumer.parking import Parking
    from shared.clock import Clock
    from shared.contracts.outcome import Claim
    from shared.messaging.ports import Delivery, OutboundMessage, Publisher, Settler
    from shared.storage.records import TaskRecords

log = get_logger(__name__)

# RabbitMQ puts this on a message when it is dead-lettered for the first time.
_HEADER_DEATH: Final = "x-first-death-reason"
_REJECTED: Final = "rejected"


class ReturnedTasks:
    """Settles deliveries of ``status.returned``."""

    def __init__(
        self,
        *,
        records: TaskRecords,
        publisher: Publisher,
        settler: Settler,
        parking: Parking,
        metrics: ConsumerMetrics,
        clock: Clock,
    ) -> None:
        self._records = records
        self._publisher = publisher
        self._settler = settler
        self._parking = parking
        self._metrics = metrics
        self._clock = clock
        self._ending = Ending(records=records, publisher=publisher, clock=clock, author=AUTHOR)

    def handle(self, delivery: Delivery) -> None:
        """Find out what became of a task, see to it, ack. Raises BrokerError or StorageError before the ack."""
        try:
            task = decode(TaskMessage, delivery.body)
            with bound(**task.log_context()):
                fate = self._settle(delivery, task)
                log.info("returned_task_settled", fate=fate, reason=str(delivery.headers.get(_HEADER_DEATH)))
        except NewerSchemaError as exc:
            # The task, its claim or its outcome: left to newer software, for as long as that takes to come.
            fate = "deferred"
            self._publish(messages.delayed_copy(delivery, COPY_WAIT_SECONDS))
            log.info("returned_task_deferred", message_id=delivery.message_id, error_message=exc.message)
        except DecodeError as exc:
            fate = "parked"
            self._parking.park(delivery, exc)
        self._metrics.returned.labels(fate=fate).inc()
        self._settler.ack(delivery)

    def _settle(self, delivery: Delivery, task: TaskMessage) -> str:
        outcome = self._records.outcome(task.task_id)
        if outcome is not None:
            self._ending.tell(outcome)
            return "repeated"
        claim = self._records.find_claim(task.task_id, task.attempt)
        if claim is not None:
            return self._settle_claimed(delivery, task, claim)
        start = decide_start(self._clock(), task.start_deadline, task.finish_deadline, task.attempt)
        if start is not Start.CLAIM:
            return self._expire(delivery, task)
        if delivery.headers.get(_HEADER_DEATH) == _REJECTED:
            # Some worker cannot read what we can; at once it would only be rejected again.
            self._publish(messages.delayed_attempt(task, COPY_WAIT_SECONDS, self._clock()))
            return "requeued_later"
        self._publish(messages.next_attempt(task, self._clock()))
        return "requeued"

    def _settle_claimed(self, delivery: Delivery, task: TaskMessage, claim: Claim) -> str:
        judged = self._ending.judge(task, claim, self._clock())
        if judged is None:
            return "repeated"
        decision, claimant = judged
        if decision is Contested.COMPLETE_EXPIRY:
            self._ending.expire(task)
        elif decision is Contested.NEXT_ATTEMPT:
            self._ending.next_attempt(task)
        elif decision is Contested.GIVE_UP:
            error = self._ending.give_up(task)
            self._metrics.parked.labels(reason=error.code).inc()
        else:
            self._publish(messages.delayed_copy(delivery, copy_wait_seconds(claimant)))
        return decision

    def _expire(self, delivery: Delivery, task: TaskMessage) -> str:
        standing = self._records.claim(self._ending.expiry_mark(task))
        if standing.mark is ClaimMark.RUN:  # it was started between our look and our mark
            return self._settle_claimed(delivery, task, standing)
        self._ending.expire(task)
        return "expired"

    def _publish(self, *outbound: OutboundMessage) -> None:
        self._publisher.publish(*outbound, timeout=PUBLISH_SECONDS)
