from __future__ import annotations

from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from shared.domain.lifting import FairClock, Lift, Line, WaitingTask, horizon_seconds
from shared.domain.priority import FairSharePolicy
from shared.domain.task import Lane

POLICY: Final = FairSharePolicy(quantum_seconds=1.0)
STANDARD: Final = POLICY.share(Lane.STANDARD)
VIP: Final = POLICY.share(Lane.VIP)
BATCH: Final = POLICY.share(Lane.BATCH)
TURN: Final = 8  # the level of a standard tenant's first task
HORIZON: Final = 6.0

TASKS: Final = st.lists(st.tuples(st.floats(0.01, 50), st.integers(0, 9), st.floats(0, 1)), max_size=8)
LINES: Final = st.dictionaries(st.sampled_from("abcdef"), TASKS, max_size=6)
CHARGES: Final = st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 100)), max_size=10)


def waiting(
    name: str, count: int, level: int = 0, waited_share: float = 0.0, seconds: float = 1.0
) -> list[WaitingTask]:
    return [WaitingTask(f"{name}{n}", seconds, level, waited_share) for n in range(count)]


def line(name: str, count: int, level: int = 0) -> Line:
    return Line(STANDARD, waiting(name, count, level))


def charged(charges: list[tuple[str, float]]) -> FairClock:
    clock = FairClock(POLICY)
    for tenant, seconds in charges:
        clock.charge(tenant, STANDARD, seconds)
    return clock


def test_two_backlogs_have_their_next_tasks_lifted_alike() -> None:
    lifts = FairClock(POLICY).lifts({"a": line("a", 20), "b": line("b", 5)}, 3.0)
    assert lifts == [Lift("a0", 8), Lift("a1", 7), Lift("a2", 6), Lift("b0", 8), Lift("b1", 7), Lift("b2", 6)]


def test_a_tenant_alone_is_left_as_it_is() -> None:
    assert FairClock(POLICY).lifts({"a": line("a", 20)}, HORIZON) == []


def test_what_stands_high_enough_is_not_published_again() -> None:
    lines = {"a": line("a", 1, TURN), "b": Line(VIP, waiting("b", 1, 9)), "c": line("c", 1, TURN - 1)}
    assert FairClock(POLICY).lifts(lines, HORIZON) == [Lift("c0", TURN)]


def test_a_small_rise_waits_until_it_is_the_tenant_s_turn() -> None:
    lines = {"a": Line(STANDARD, [*waiting("a", 1, TURN), WaitingTask("later", 1.0, 5, 0)]), "b": line("b", 1, TURN)}
    assert FairClock(POLICY).lifts(lines, HORIZON) == []  # from 5 to 7 is less than three
    assert FairClock(POLICY).lifts({**lines, "a": Line(STANDARD, [WaitingTask("later", 1.0, 5, 0)])}, HORIZON) == [
        Lift("later", TURN)
    ]


def test_who_was_served_stands_back_until_the_others_have_had_as_much() -> None:
    clock, lines = FairClock(POLICY), {"video": line("v", 3), "images": line("i", 40)}
    clock.lifts(lines, HORIZON)
    clock.charge("video", STANDARD, 30.0)
    lifted = clock.lifts(lines, HORIZON)
    assert Lift("i0", TURN) in lifted
    assert Lift("v0", 3) in lifted
    clock.charge("images", STANDARD, 30.0)
    assert Lift("v0", TURN) in clock.lifts(lines, HORIZON)


def test_weight_divides_what_a_tenant_was_served() -> None:
    clock, lines = FairClock(POLICY), {"vip": Line(VIP, waiting("v", 1)), "standard": line("s", 1)}
    clock.charge("vip", VIP, 8.0)
    clock.charge("standard", STANDARD, 2.0)
    assert set(clock.lifts(lines, HORIZON)) == {Lift("v0", TURN), Lift("s0", TURN)}


def test_what_was_predicted_wrongly_is_set_right_at_the_end() -> None:
    clock, lines = FairClock(POLICY), {"a": line("a", 1), "b": line("b", 1)}
    clock.lifts(lines, HORIZON)
    clock.charge("a", STANDARD, 30.0)
    clock.charge("a", STANDARD, 0.5 - 30.0)
    assert Lift("a0", TURN) in clock.lifts(lines, HORIZON)


def test_idle_capacity_is_not_held_against_who_used_it() -> None:
    clock = FairClock(POLICY)
    clock.charge("night", STANDARD, 1000.0)
    assert clock.lifts({}, HORIZON) == []
    assert Lift("n0", TURN) in clock.lifts({"night": line("n", 1), "day": line("d", 1)}, HORIZON)


def test_who_comes_late_has_no_claim_to_the_time_before() -> None:
    clock = FairClock(POLICY)
    clock.charge("old", STANDARD, 1000.0)
    clock.lifts({"old": line("o", 9)}, HORIZON)
    lifts = clock.lifts({"old": line("o", 9), "new": line("n", 9)}, 1.0)
    assert set(lifts) == {Lift("o0", TURN), Lift("n0", TURN)}


def test_a_batch_task_is_lifted_after_half_its_start_within() -> None:
    def lifts(waited_share: float) -> list[Lift]:
        lines = {"b": Line(BATCH, waiting("b", 1, 0, waited_share)), "s": line("s", 1, TURN), "t": line("t", 1, TURN)}
        return FairClock(POLICY).lifts(lines, HORIZON)

    assert lifts(0.49) == []
    assert lifts(0.5) == [Lift("b0", TURN)]


def test_a_batch_tenant_that_may_not_be_lifted_does_not_hold_the_clock() -> None:
    clock = FairClock(POLICY)
    lines = {"b": Line(BATCH, waiting("b", 5)), "s": line("s", 50), "t": line("t", 50)}
    for _ in range(50):
        clock.charge("s", STANDARD, 10.0)
        clock.charge("t", STANDARD, 10.0)
        assert Lift("s0", TURN) in clock.lifts(lines, HORIZON)


def test_a_pass_looks_as_far_as_the_workers_may_get_before_the_next() -> None:
    assert horizon_seconds(POLICY, workers=4, interval_seconds=5.0) == 21.0
    assert horizon_seconds(POLICY, workers=0, interval_seconds=5.0) == 6.0


def test_the_first_in_line_is_lifted_however_long_it_is() -> None:
    lines = {"a": Line(STANDARD, waiting("a", 2, seconds=900.0)), "b": line("b", 1, TURN)}
    assert FairClock(POLICY).lifts(lines, HORIZON) == [Lift("a0", TURN)]


@given(LINES, CHARGES)
def test_a_lift_always_raises_names_a_waiting_task_once_and_gives_nobody_a_vip_s_level(
    drawn: dict[str, list[tuple[float, int, float]]], charges: list[tuple[str, float]]
) -> None:
    lines = {
        tenant: Line(STANDARD, [WaitingTask(f"{tenant}{n}", *task) for n, task in enumerate(tasks)])
        for tenant, tasks in drawn.items()
    }
    lifts = charged(charges).lifts(lines, HORIZON)
    before = {task.task_id: task.level for one in lines.values() for task in one.tasks}
    assert len({lift.task_id for lift in lifts}) == len(lifts)
    assert all(before[lift.task_id] < lift.level <= TURN for lift in lifts)


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 9), min_size=2), CHARGES)
def test_somebody_s_oldest_task_always_has_the_turn(counts: dict[str, int], charges: list[tuple[str, float]]) -> None:
    lifts = charged(charges).lifts({tenant: line(tenant, count) for tenant, count in counts.items()}, HORIZON)
    assert any(lift.task_id.endswith("0") and lift.level == TURN for lift in lifts)
