"""Refusals that are about an ``Idempotency-Key``."""

from __future__ import annotations

from shared.domain.errors import AtelierError, RequestError
from shared.http.errors import InvalidRequestError


class InvalidIdempotencyKeyError(InvalidRequestError):
    """The header is not 1 to 255 printable ASCII characters, nor such a string in quotes."""

    code = "invalid_idempotency_key"


class IdempotencyKeyReusedError(RequestError):
    """The key was sent before, with another body or to another path."""

    code = "idempotency_key_reused"


class IdempotencyInFlightError(RequestError):
    """The first request with this key has not been answered. After ``retry_after_seconds`` it has, or is given up."""

    code = "idempotency_in_flight"
    retryable = True

    def __init__(self, retry_after_seconds: float) -> None:
        super().__init__("a request with this Idempotency-Key is being answered; ask again with the same key")
        self.retry_after_seconds = retry_after_seconds


class IdempotencyUnavailableError(AtelierError):
    """Nobody can tell now whether the key was sent before. Nothing was accepted."""

    code = "idempotency_unavailable"
    retryable = True


class RecordsUnavailableError(AtelierError):
    """The records do not answer in time."""

    code = "submission_records_unavailable"
    retryable = True
