"""What becomes of a delivery. Pure functions over facts that the caller has read from the bucket and the clock.

The rules are invariants 2 to 5 of docs/architecture.md: one outcome for each task, a start is claimed, attempts count
starts and not deliveries, a delivery is settled once and last.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from datetime import datetime

RETRY_DELAYS_SECONDS: Final = (5, 30, 120)
COPY_WAIT_SECONDS: Final = 30


class ClaimMark(StrEnum):
    """What a claim says: its owner computes, or nobody may start any more."""

    RUN = "run"
    EXPIRED = "expired"


class Start(StrEnum):
    """What to do with a delivery whose attempt may not have started yet."""

    CLAIM = "claim"
    EXPIRE = "expire"
    DEADLINE = "deadline"


class Contested(StrEnum):
    """What to do with a delivery whose attempt has been claimed before."""

    COMPLETE_EXPIRY = "complete_expiry"
    WAIT_FOR_COPY = "wait_for_copy"
    NEXT_ATTEMPT = "next_attempt"
    GIVE_UP = "give_up"


class AfterFailure(StrEnum):
    """What to do with a task whose attempt failed."""

    RETRY = "retry"
    FAIL = "fail"
    PARK = "park"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimFacts:
    """The existing claim of an attempt: what it says, its age, and whether its execution lives in this process."""

    mark: ClaimMark
    age_seconds: float
    budget_seconds: float
    alive_here: bool


def decide_start(now: datetime, start_deadline: datetime, finish_deadline: datetime, attempt: int) -> Start:
    """Before the claim: a first attempt must start in time, every attempt must be able to finish in time."""
    if attempt == 1 and now >= start_deadline:
        return Start.EXPIRE
    if now >= finish_deadline:
        return Start.DEADLINE
    return Start.CLAIM


def decide_contested(claim: ClaimFacts, *, redelivered: bool, attempt: int, max_attempts: int) -> Contested:
    """After a claim was refused because the attempt has one.

    A redelivered message means that whoever held it is gone, unless that is this very process (its connection broke
    while it computed). A first delivery with a fresh claim is a duplicated message: its twin runs elsewhere.
    """
    if claim.mark is ClaimMark.EXPIRED:
        return Contested.COMPLETE_EXPIRY
    if claim.alive_here:
        return Contested.WAIT_FOR_COPY
    if redelivered or claim.age_seconds > claim.budget_seconds:
        return Contested.NEXT_ATTEMPT if attempt < max_attempts else Contested.GIVE_UP
    return Contested.WAIT_FOR_COPY


def decide_after_failure(*, retryable: bool, attempt: int, max_attempts: int) -> AfterFailure:
    """After an attempt failed: the user's own errors end the task, others are retried and at last parked."""
    if not retryable:
        return AfterFailure.FAIL
    return AfterFailure.RETRY if attempt < max_attempts else AfterFailure.PARK


def retry_delay_seconds(attempt: int) -> int:
    """Seconds to wait after attempt ``attempt`` failed; one retry queue exists for each value."""
    return RETRY_DELAYS_SECONDS[min(attempt, len(RETRY_DELAYS_SECONDS)) - 1]
