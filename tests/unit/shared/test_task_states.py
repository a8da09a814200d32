from __future__ import annotations

from itertools import product
from typing import Final

import pytest

from shared.domain.task import (
    FINAL_STATES,
    LANE_PRIORITY,
    LEGAL_MOVES,
    STATE_AFTER,
    EventType,
    Lane,
    TaskState,
    can_move,
)
from shared.messaging.topology import MAX_PRIORITY

# Rows: from. Columns: to queued, running, retrying, succeeded, failed, cancelled, expired.
MOVES: Final = {
    TaskState.QUEUED: ".xxxxxx",
    TaskState.RUNNING: ".xxxxxx",
    TaskState.RETRYING: ".xxxxxx",
    TaskState.SUCCEEDED: ".......",
    TaskState.FAILED: ".......",
    TaskState.CANCELLED: ".......",
    TaskState.EXPIRED: ".......",
}


@pytest.mark.parametrize(("old", "new"), list(product(TaskState, TaskState)))
def test_a_move_is_legal_where_the_table_has_a_cross(old: TaskState, new: TaskState) -> None:
    assert can_move(old, new) is (MOVES[old][list(TaskState).index(new)] == "x")


def test_every_state_has_its_moves() -> None:
    assert set(LEGAL_MOVES) == set(TaskState)


@pytest.mark.parametrize("state", list(TaskState))
def test_a_state_is_final_when_nothing_follows_it(state: TaskState) -> None:
    assert state.is_final is (not LEGAL_MOVES[state])
    assert state.is_final is (state in FINAL_STATES)


@pytest.mark.parametrize("state", list(TaskState))
def test_every_state_is_reached_by_an_event(state: TaskState) -> None:
    assert state in STATE_AFTER.values()


def test_every_event_leads_to_a_state() -> None:
    assert set(STATE_AFTER) == set(EventType)


def test_lanes_have_different_levels_within_the_queue_in_their_order() -> None:
    levels = [LANE_PRIORITY[lane] for lane in (Lane.VIP, Lane.STANDARD, Lane.BATCH)]
    assert levels == sorted(set(levels), reverse=True)
    assert all(0 <= level < MAX_PRIORITY for level in levels)
    assert set(LANE_PRIORITY) == set(Lane)
