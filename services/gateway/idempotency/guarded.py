"""Records that are away are not asked by every request."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final, TypeVar

from services.gateway.idempotency.errors import RecordsUnavailableError
from shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.gateway.idempotency.ports import Answered, Claim, End, Held, InFlight, SubmissionRecords

log = get_logger(__name__)
T = TypeVar("T")

# While Redis is away only one request in so many seconds waits for its time-out.
_RETRY_SECONDS: Final = 1.0


class GuardedRecords:
    """SubmissionRecords that fail at once while they are known to be away."""

    def __init__(self, records: SubmissionRecords, clock: Callable[[], float] = time.monotonic) -> None:
        self._records = records
        self._clock = clock
        self._lock = threading.Lock()
        self._lost = False
        self._away_until = 0.0

    def claim(self, claim: Claim) -> Held | InFlight | Answered:
        """See SubmissionRecords."""
        return self._try(lambda: self._records.claim(claim))

    def leave(self, claim: Claim) -> None:
        """See SubmissionRecords."""
        self._try(lambda: self._records.leave(claim))

    def settle(self, claim: Claim, task_id: str, end: End, answer: str = "") -> None:
        """See SubmissionRecords."""
        self._try(lambda: self._records.settle(claim, task_id, end, answer))

    def _try(self, call: Callable[[], T]) -> T:
        self._refuse_while_away()
        try:
            result = call()
        except RecordsUnavailableError as exc:
            self._lose(exc)
            raise
        if self._lost:
            self._lost = False
            log.info("submission_records_found")
        return result

    def _refuse_while_away(self) -> None:
        if not self._lost:
            return
        with self._lock:
            now = self._clock()
            if now < self._away_until:
                message = "the records did not answer a moment ago"
                raise RecordsUnavailableError(message)
            self._away_until = now + _RETRY_SECONDS

    def _lose(self, error: RecordsUnavailableError) -> None:
        with self._lock:
            first, self._lost = not self._lost, True
            self._away_until = self._clock() + _RETRY_SECONDS
        if first:
            log.warning("submission_records_lost", error_code=error.code, error_message=error.message)
