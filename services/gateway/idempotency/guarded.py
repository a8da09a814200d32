"""Records that are away are not asked by every request."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from services.gateway.breaker import Breaker
from services.gateway.idempotency.errors import IdempotencyKeyReusedError, RecordsUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.gateway.idempotency.ports import Answered, Claim, End, Held, InFlight, SubmissionRecords

T = TypeVar("T")


class GuardedRecords:
    """SubmissionRecords that fail at once while they are known to be away."""

    def __init__(self, records: SubmissionRecords, breaker: Breaker | None = None) -> None:
        self._records = records
        self._breaker = breaker or Breaker("submission_records")

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
        if not self._breaker.may_ask():
            message = "the records did not answer a moment ago"
            raise RecordsUnavailableError(message)
        try:
            result = call()
        except RecordsUnavailableError as exc:
            self._breaker.failed(exc)
            raise
        except IdempotencyKeyReusedError:
            self._breaker.answered()
            raise
        self._breaker.answered()
        return result
