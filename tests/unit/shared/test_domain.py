from __future__ import annotations

from datetime import timedelta
from itertools import product

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
from shared.domain.task import FINAL_STATES, LEGAL_MOVES, STATE_AFTER, EventType, TaskState, can_move
from shared.ids import is_task_id, new_task_id, new_traceparent, task_id_seconds, trace_id_of
from tests.support.builders import NOW

HOUR = timedelta(hours=1)


def test_final_states_are_never_left_and_all_others_can_reach_each_of_them() -> None:
    for old, new in product(TaskState, TaskState):
        if old in FINAL_STATES:
            assert not can_move(old, new)
        elif new in FINAL_STATES:
            assert can_move(old, new)


def test_a_task_never_goes_back_to_queued() -> None:
    assert all(TaskState.QUEUED not in moves for moves in LEGAL_MOVES.values())


def test_every_event_leads_to_a_state() -> None:
    assert set(STATE_AFTER) == set(EventType)


@pytest.mark.parametrize(
    ("start_in", "finish_in", "attempt", "expected"),
    [
        (1, 2, 1, Start.CLAIM),
        (0, 2, 1, Start.EXPIRE),
        (-1, 2, 1, Start.EXPIRE),
        (-1, 2, 2, Start.CLAIM),
        (-2, 0, 2, Start.DEADLINE),
        (-2, -1, 1, Start.EXPIRE),
        (1, -1, 1, Start.DEADLINE),
    ],
)
def test_only_a_first_attempt_must_start_in_time_and_every_one_must_finish(
    start_in: int, finish_in: int, attempt: int, expected: Start
) -> None:
    assert decide_start(NOW, NOW + start_in * HOUR, NOW + finish_in * HOUR, attempt) is expected


@pytest.mark.parametrize("redelivered", [True, False])
@pytest.mark.parametrize("alive", [True, False])
@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize("attempt", [1, 2, 3])
@pytest.mark.parametrize("mark", list(ClaimMark))
def test_a_contested_claim(mark: ClaimMark, attempt: int, late: bool, alive: bool, redelivered: bool) -> None:
    facts = ClaimFacts(mark=mark, age_seconds=61.0 if late else 60.0, budget_seconds=60.0, alive_here=alive)
    decision = decide_contested(facts, redelivered=redelivered, attempt=attempt, max_attempts=3)
    if mark is ClaimMark.EXPIRED:
        assert decision is Contested.COMPLETE_EXPIRY
    elif alive or not (redelivered or late):
        assert decision is Contested.WAIT_FOR_COPY
    else:
        assert decision is (Contested.GIVE_UP if attempt == 3 else Contested.NEXT_ATTEMPT)


@pytest.mark.parametrize(
    ("retryable", "attempt", "expected"),
    [
        (True, 1, AfterFailure.RETRY),
        (True, 2, AfterFailure.RETRY),
        (True, 3, AfterFailure.PARK),
        (False, 1, AfterFailure.FAIL),
        (False, 3, AfterFailure.FAIL),
    ],
)
def test_after_a_failure(retryable: bool, attempt: int, expected: AfterFailure) -> None:
    assert decide_after_failure(retryable=retryable, attempt=attempt, max_attempts=3) is expected


def test_delays_grow_and_each_has_a_queue() -> None:
    assert [retry_delay_seconds(attempt) for attempt in (1, 2, 3, 9)] == [5, 30, 120, 120]
    assert list(RETRY_DELAYS_SECONDS) == sorted(RETRY_DELAYS_SECONDS)


def test_task_ids_are_ordered_by_time_and_tell_it() -> None:
    first, second = new_task_id(), new_task_id()
    assert is_task_id(first)
    assert task_id_seconds(first) <= task_id_seconds(second)
    assert not is_task_id(first + "\n")
    assert not is_task_id(first.upper())


def test_a_new_trace_is_well_formed() -> None:
    trace = new_traceparent()
    assert len(trace_id_of(trace)) == 32
    assert trace_id_of(trace) in trace
