"""Events in, the ledger kept true; an event is acked once the ledger has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.gateway.admission.redis_ledger import LedgerUnavailableError
from services.gateway.ledger.notes import note_of
from shared.contracts.base import decode
from shared.contracts.event import TaskEvent
from shared.domain.errors import DecodeError
from shared.logging import get_logger

if TYPE_CHECKING:
    from services.gateway.admission.redis_ledger import Note, RedisLedger
    from shared.clock import Clock
    from shared.lifecycle import StopSignal
    from shared.messaging.ports import BatchConsumer, Delivery

log = get_logger(__name__)

BATCH: Final = 200
_TAKE_SECONDS: Final = 1.0
_FIRST_BACKOFF_SECONDS: Final = 0.2
_LONGEST_BACKOFF_SECONDS: Final = 5.0


class LedgerLoop:
    """One batch after the other. While Redis is away the events wait in their queue."""

    def __init__(self, consumer: BatchConsumer, ledger: RedisLedger, clock: Clock) -> None:
        self._consumer = consumer
        self._ledger = ledger
        self._clock = clock

    def run(self, stop: StopSignal) -> None:
        """Work until told to stop."""
        while not stop.is_set():
            batch = self._consumer.take_batch(BATCH, _TAKE_SECONDS)
            if batch and self._apply([self._read(delivery) for delivery in batch], stop):
                self._consumer.ack(batch[-1], multiple=True)

    def _apply(self, notes: list[Note | None], stop: StopSignal) -> bool:
        known = [note for note in notes if note is not None]
        backoff = _FIRST_BACKOFF_SECONDS
        while not stop.is_set():
            try:
                self._ledger.note(known)
            except LedgerUnavailableError as exc:
                log.warning("ledger_not_updated", error_code=exc.code, error_message=exc.message, events=len(known))
                stop.wait(backoff)
                backoff = min(backoff * 2, _LONGEST_BACKOFF_SECONDS)
            else:
                return True
        return False

    def _read(self, delivery: Delivery) -> Note | None:
        try:
            return note_of(decode(TaskEvent, delivery.body), self._clock())
        except DecodeError as exc:
            # The status service parks the same event for operators; here it would only be counted twice.
            log.warning("event_unreadable", error_code=exc.code, error_message=exc.message)
            return None
