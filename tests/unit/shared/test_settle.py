from __future__ import annotations

from datetime import timedelta
from itertools import product
from typing import TYPE_CHECKING, Final

import pytest

from shared.domain.settle import (
    RETRY_DELAYS_SECONDS,
    AfterFailure,
    ClaimFacts,
    ClaimMark,
    Contested,
    Start,
    decide_after_failure,
    decide_contested,
    decide_start,
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

# Every combination: (alive here, redelivered, age) -> (with attempts left, on the last attempt)
RUN_TABLE: Final = {
    (False, False, FRESH): (COPY, COPY),
    (False, False, AT_BUDGET): (COPY, COPY),
    (False, False, OLD): (NEXT, GIVE_UP),
    (False, True, FRESH): (NEXT, GIVE_UP),
    (False, True, AT_BUDGET): (NEXT, GIVE_UP),
    (False, True, OLD): (NEXT, GIVE_UP),
    (True, False, FRESH): (COPY, COPY),
    (True, False, AT_BUDGET): (COPY, COPY),
    (True, False, OLD): (COPY, COPY),
    (True, True, FRESH): (COPY, COPY),
    (True, True, AT_BUDGET): (COPY, COPY),
    (True, True, OLD): (COPY, COPY),
}


def _claim(mark: ClaimMark, age: float, *, alive_here: bool) -> ClaimFacts:
    return ClaimFacts(mark=mark, age_seconds=age, budget_seconds=BUDGET, alive_here=alive_here)


@pytest.mark.parametrize(("alive_here", "redelivered", "age"), list(RUN_TABLE))
def test_a_contested_delivery_is_decided_by_the_table(alive_here: bool, redelivered: bool, age: float) -> None:
    claim = _claim(ClaimMark.RUN, age, alive_here=alive_here)
    with_more_left, on_the_last = RUN_TABLE[alive_here, redelivered, age]
    assert decide_contested(claim, redelivered=redelivered, attempt=1, max_attempts=3) is with_more_left
    assert decide_contested(claim, redelivered=redelivered, attempt=2, max_attempts=3) is with_more_left
    assert decide_contested(claim, redelivered=redelivered, attempt=3, max_attempts=3) is on_the_last


@pytest.mark.parametrize(
    ("alive_here", "redelivered", "age", "attempt"), [(*row, n) for row in RUN_TABLE for n in (1, 3)]
)
def test_an_expired_claim_is_always_completed(alive_here: bool, redelivered: bool, age: float, attempt: int) -> None:
    claim = _claim(ClaimMark.EXPIRED, age, alive_here=alive_here)
    assert decide_contested(claim, redelivered=redelivered, attempt=attempt, max_attempts=3) is EXPIRY


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
