"""Refusals of admission. ``retry_after_seconds`` is when the same request may come in, as far as anybody can tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.domain.errors import RequestError

if TYPE_CHECKING:
    from services.gateway.admission.ports import Window


class AdmissionError(RequestError):
    """There is no place for the task now."""

    code = "not_admitted"
    retryable = True

    def __init__(self, message: str, *, retry_after_seconds: float, windows: tuple[Window, ...] = ()) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.windows = windows


class RateLimitedError(AdmissionError):
    """The key (or address) asks more often than its plan allows."""

    code = "rate_limited"


class QuotaExceededError(AdmissionError):
    """The tenant's GPU-seconds of the day are used up."""

    code = "quota_exceeded"


class TooManyTasksError(AdmissionError):
    """The tenant has as many tasks outstanding as its plan allows."""

    code = "too_many_tasks"


class QueueFullError(AdmissionError):
    """As many tasks wait for the model as may, whoever's they are."""

    code = "queue_full"
