"""From what an adapter found to an answer or a refusal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.gateway.admission.errors import (
    QueueFullError,
    QuotaExceededError,
    RateLimitedError,
    TooManyTasksError,
)

if TYPE_CHECKING:
    from services.gateway.admission.errors import AdmissionError
    from services.gateway.admission.ports import Admitted, Application

_SHORTEST_SECONDS: Final = 1.0
_LONGEST_DRAIN_SECONDS: Final = 600.0


def drain_seconds(found: Admitted, workers: int) -> float:
    """How long until one place becomes free: the mean price of what waits, over the workers that take it."""
    mean = found.model_work / found.waiting if found.waiting else 0.0
    return min(_LONGEST_DRAIN_SECONDS, max(_SHORTEST_SECONDS, mean / max(1, workers)))


def refusal(code: str, application: Application, found: Admitted, *, wait: float, drain: float) -> AdmissionError:
    """The error for a code. ``wait`` is what a bucket or the day says, ``drain`` what the queue says, in seconds."""
    if code == RateLimitedError.code:
        return RateLimitedError("too many requests for this plan", retry_after_seconds=wait, windows=found.windows)
    if code == QuotaExceededError.code:
        message = f"the plan's {application.gpu_seconds_per_day:g} GPU-seconds of today (UTC) are used up"
        return QuotaExceededError(message, retry_after_seconds=wait, windows=found.windows)
    if code == TooManyTasksError.code:
        message = f"the plan allows {application.queued} waiting and {application.concurrency} running tasks"
        return TooManyTasksError(message, retry_after_seconds=drain, windows=found.windows)
    message = f"{application.bound} tasks wait for {application.model} already"
    return QueueFullError(message, retry_after_seconds=drain, windows=found.windows)
