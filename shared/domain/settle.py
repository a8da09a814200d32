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
TWIN_WAIT_SECONDS: Final = 5
# A worker renews its lease every few seconds. One that did not for this long is dead, or cut off from the store.
LEASE_RENEWAL_SECONDS: Final = 5.0
LEASE_SECONDS: Final = 20.0
# Memory that others hold is free again some time later, not at once.
_DELAY_OF_CODE: Final = {"out_of_memory": 30, "host_out_of_memory": 30}


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


class Claimant(StrEnum):
    """What is known of the execution behind a claim: ``recent`` is younger than its owner's lease, which is fresh."""

    HERE = "here"
    ALIVE = "alive"
    RECENT = "recent"
    GONE = "gone"
    LEASELESS = "leaseless"


class AfterFailure(StrEnum):
    """What to do with a task whose attempt failed."""

    RETRY = "retry"
    FAIL = "fail"
    PARK = "park"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimFacts:
    """The existing claim of an attempt: what it says, its age, and what became of its owner."""

    mark: ClaimMark
    age_seconds: float
    budget_seconds: float
    claimant: Claimant


def judge_claimant(now: datetime, claimed_at: datetime, leased_at: datetime | None, *, listed: bool) -> Claimant:
    """What an owner's lease says of its claim.

    The lease and the claim bear the owner's own times, so a lease that is younger than the claim and does not list its
    execution says that it has ended. Only the age of the lease compares two clocks.
    """
    if leased_at is None:
        return Claimant.LEASELESS
    if (now - leased_at).total_seconds() > LEASE_SECONDS:
        return Claimant.GONE
    if listed:
        return Claimant.ALIVE
    return Claimant.GONE if leased_at > claimed_at else Claimant.RECENT


def decide_start(now: datetime, start_deadline: datetime, finish_deadline: datetime, attempt: int) -> Start:
    """Before the claim: a first attempt must start in time, every attempt must be able to finish in time."""
    if attempt == 1 and now >= start_deadline:
        return Start.EXPIRE
    if now >= finish_deadline:
        return Start.DEADLINE
    return Start.CLAIM


def decide_contested(claim: ClaimFacts, *, redelivered: bool, attempt: int, max_attempts: int) -> Contested:
    """After a claim was refused because the attempt has one.

    A redelivery alone does not mean that the owner died: its connection may have broken, or the broker restarted, while
    it computes on. Its lease tells. Without any lease a redelivered message or an overdue claim counts as a death.
    """
    if claim.mark is ClaimMark.EXPIRED:
        return Contested.COMPLETE_EXPIRY
    if claim.claimant in {Claimant.HERE, Claimant.ALIVE}:
        return Contested.WAIT_FOR_COPY
    over = claim.claimant is Claimant.GONE or claim.age_seconds > claim.budget_seconds
    if not over and (claim.claimant is Claimant.RECENT or not redelivered):
        return Contested.WAIT_FOR_COPY
    return Contested.NEXT_ATTEMPT if attempt < max_attempts else Contested.GIVE_UP


def may_await_twin(now: datetime, submitted: datetime, deadline: datetime) -> bool:
    """Whether a task that another one does the work of should wait for it: for half of the time that it has.

    After that it computes by itself. Done twice is better than not at all.
    """
    return now < submitted + (deadline - submitted) / 2


def copy_wait_seconds(claimant: Claimant) -> int:
    """How long a copy waits for its twin: long beside one that runs, shortly where that will be known soon."""
    return RETRY_DELAYS_SECONDS[0] if claimant in {Claimant.HERE, Claimant.RECENT} else COPY_WAIT_SECONDS


def decide_after_failure(*, retryable: bool, attempt: int, max_attempts: int) -> AfterFailure:
    """After an attempt failed: the user's own errors end the task, others are retried and at last parked."""
    if not retryable:
        return AfterFailure.FAIL
    return AfterFailure.RETRY if attempt < max_attempts else AfterFailure.PARK


def retry_delay_seconds(attempt: int, code: str = "") -> int:
    """Seconds to wait after attempt ``attempt`` failed with ``code``; one retry queue exists for each value."""
    return _DELAY_OF_CODE.get(code, RETRY_DELAYS_SECONDS[min(attempt, len(RETRY_DELAYS_SECONDS)) - 1])
