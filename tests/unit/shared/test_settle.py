from __future__ import annotations

from datetime import timedelta
from itertools import product
from typing import TYPE_CHECKING, Final

import pytest

from shared.domain.settle import (
    LEASE_SECONDS,
    RETRY_DELAYS_SECONDS,
    AfterFailure,
    Claimant,
    ClaimFacts,
    ClaimMark,
    Contested,
    Start,
    copy_wait_seconds,
    decide_after_failure,
    decide_contested,
    decide_start,
    judge_claimant,
    retry_delay_seconds,
)
from tests.support.builders import NOW

if TYPE_CHECKING:
    from datetime import datetime

BEFORE: Final = NOW + timedelta(microseconds=1)
REACHED: Final = NOW
PASSED: Final = NOW - timedelta(microseconds=1)
DEADLINES: Final = (BEFORE, REACHED, PASSED)


@pytest.mark.parametrize(("start", "finish"), list(product(DEADLINES, DEADLINES)))
def test_a_first_attempt_must_start_in_time_and_then_be_able_to_finish(start: datetime, finish: datetime) -> None:
    expected = {
        (True, True): Start.CLAIM,
        (True, False): Start.DEADLINE,
        (False, True): Start.EXPIRE,
        (False, False): Start.EXPIRE,
    }[start is BEFORE, finish is BEFORE]
    assert decide_start(NOW, start, finish, 1) is expected


@pytest.mark.parametrize(("start", "finish", "attempt"), list(product(DEADLINES, DEADLINES, (2, 3))))
def test_a_later_attempt_knows_only_the_finish_deadline(start: datetime, finish: datetime, attempt: int) -> None:
    expected = Start.CLAIM if finish is BEFORE else Start.DEADLINE
    assert decide_start(NOW, start, finish, attempt) is expected


BUDGET: Final = 60.0
FRESH, AT_BUDGET, OLD = 1.0, BUDGET, BUDGET + 0.001
COPY, NEXT, GIVE_UP, EXPIRY = (
    Contested.WAIT_FOR_COPY,
    Contested.NEXT_ATTEMPT,
    Contested.GIVE_UP,
    Contested.COMPLETE_EXPIRY,
)

# Every combination: (claimant, redelivered, age) -> (with attempts left, on the last attempt)
HERE, ALIVE, RECENT, GONE, LEASELESS = Claimant
OVER: Final = (NEXT, GIVE_UP)
WAIT: Final = (COPY, COPY)
RUN_TABLE: Final = {
    **{
        (alive, again, age): WAIT
        for alive in (HERE, ALIVE)
        for again in (False, True)
        for age in (FRESH, AT_BUDGET, OLD)
    },
    **dict.fromkeys(product((GONE,), (False, True), (FRESH, AT_BUDGET, OLD)), OVER),
    **dict.fromkeys(product((RECENT,), (False, True), (FRESH, AT_BUDGET)), WAIT),
    **dict.fromkeys(product((RECENT, LEASELESS), (False, True), (OLD,)), OVER),
    **{(LEASELESS, False, age): WAIT for age in (FRESH, AT_BUDGET)},
    **{(LEASELESS, True, age): OVER for age in (FRESH, AT_BUDGET)},
}


def test_the_table_is_whole() -> None:
    assert set(RUN_TABLE) == set(product(Claimant, (False, True), (FRESH, AT_BUDGET, OLD)))


def _claim(mark: ClaimMark, age: float, claimant: Claimant) -> ClaimFacts:
    return ClaimFacts(mark=mark, age_seconds=age, budget_seconds=BUDGET, claimant=claimant)


@pytest.mark.parametrize(("claimant", "redelivered", "age"), list(RUN_TABLE))
def test_a_contested_delivery_is_decided_by_the_table(claimant: Claimant, redelivered: bool, age: float) -> None:
    claim = _claim(ClaimMark.RUN, age, claimant)
    with_more_left, on_the_last = RUN_TABLE[claimant, redelivered, age]
    assert decide_contested(claim, redelivered=redelivered, attempt=1, max_attempts=3) is with_more_left
    assert decide_contested(claim, redelivered=redelivered, attempt=2, max_attempts=3) is with_more_left
    assert decide_contested(claim, redelivered=redelivered, attempt=3, max_attempts=3) is on_the_last


@pytest.mark.parametrize(
    ("claimant", "redelivered", "age", "attempt"), [(*row, n) for row in RUN_TABLE for n in (1, 3)]
)
def test_an_expired_claim_is_always_completed(claimant: Claimant, redelivered: bool, age: float, attempt: int) -> None:
    claim = _claim(ClaimMark.EXPIRED, age, claimant)
    assert decide_contested(claim, redelivered=redelivered, attempt=attempt, max_attempts=3) is EXPIRY


LEASE_END: Final = timedelta(seconds=LEASE_SECONDS)
TICK: Final = timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("lease_age", "claim_age", "listed", "expected"),
    [
        (None, TICK, False, LEASELESS),
        (LEASE_END, 2 * LEASE_END, True, ALIVE),
        (LEASE_END + TICK, 2 * LEASE_END, True, GONE),
        (TICK, 2 * TICK, True, ALIVE),
        (TICK, 2 * TICK, False, GONE),
        (TICK, TICK, False, RECENT),
        (2 * TICK, TICK, False, RECENT),
        (LEASE_END + TICK, TICK, False, GONE),
    ],
)
def test_a_lease_tells_what_became_of_a_claims_owner(
    lease_age: timedelta | None, claim_age: timedelta, listed: bool, expected: Claimant
) -> None:
    leased_at = None if lease_age is None else NOW - lease_age
    assert judge_claimant(NOW, NOW - claim_age, leased_at, listed=listed) is expected


def test_a_copy_waits_shortly_where_the_answer_comes_soon() -> None:
    assert {claimant: copy_wait_seconds(claimant) for claimant in Claimant} == {
        HERE: 5,
        RECENT: 5,
        ALIVE: 30,
        GONE: 30,
        LEASELESS: 30,
    }


@pytest.mark.parametrize(
    ("retryable", "attempt", "expected"),
    [
        (True, 1, AfterFailure.RETRY),
        (True, 2, AfterFailure.RETRY),
        (True, 3, AfterFailure.PARK),
        (True, 4, AfterFailure.PARK),
        (False, 1, AfterFailure.FAIL),
        (False, 2, AfterFailure.FAIL),
        (False, 3, AfterFailure.FAIL),
        (False, 4, AfterFailure.FAIL),
    ],
)
def test_a_failed_attempt_is_decided_by_the_table(retryable: bool, attempt: int, expected: AfterFailure) -> None:
    assert decide_after_failure(retryable=retryable, attempt=attempt, max_attempts=3) is expected


@pytest.mark.parametrize(("attempt", "seconds"), [(1, 5), (2, 30), (3, 120), (4, 120), (99, 120)])
def test_the_delay_grows_with_the_attempt_and_then_stays(attempt: int, seconds: int) -> None:
    assert retry_delay_seconds(attempt) == seconds
    assert seconds in RETRY_DELAYS_SECONDS


@pytest.mark.parametrize("code", ["out_of_memory", "host_out_of_memory"])
@pytest.mark.parametrize("attempt", [1, 2, 3])
def test_memory_that_others_hold_gets_half_a_minute(code: str, attempt: int) -> None:
    assert retry_delay_seconds(attempt, code) == 30
