from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.worker.gate import ChildMemory, Gate, GatePolicy, choose, consumer_priority, score
from services.worker.gpu import Device, DeviceSample, DeviceUnavailableError
from services.worker.gpu_fakes import FakeDevice, FakeProbe, fake_gate

if TYPE_CHECKING:
    from collections.abc import Callable

    Logged = Callable[[], list[dict[str, Any]]]

TOTAL = 10_000.0
HEADROOM = 500.0
HOLD = 60.0


class Timeline:
    """Time that passes only where the gate waits, and a stop that comes at a moment of it."""

    def __init__(self, stop_at: float | None = None) -> None:
        self.now = 0.0
        self.waits: list[float] = []
        self._stop_at = stop_at

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.now += seconds
        return self._stop_at is not None and self.now >= self._stop_at


class Door:
    """A gate over one made-up device."""

    def __init__(
        self, *, free: float = TOTAL, held: float = 0.0, stop_at: float | None = None, bound: int = 10
    ) -> None:
        self.probe = FakeProbe(FakeDevice(total_mb=TOTAL, free_mb=free))
        self.held = held
        self.time = Timeline(stop_at)
        self.gate = Gate(
            Device(self.probe, self.probe.devices()[0]),
            held_mb=lambda: self.held,
            policy=GatePolicy(headroom_mb=HEADROOM, failed_samples=bound),
            monotonic=lambda: self.time.now,
        )

    def admit(self, need: float, hold: float = HOLD) -> bool:
        return self.gate.admit(need, hold, self.time)


def sample(*, free: float = TOTAL, busy: float = 0.0, total: float = TOTAL) -> DeviceSample:
    return DeviceSample(name="GPU", uuid="GPU-1", total_mb=total, free_mb=free, utilisation=busy)


shares = st.floats(0, 1)
samples = st.builds(
    lambda total, free, busy: sample(total=total, free=free * total, busy=busy), st.floats(1, 200_000), shares, shares
)
# What no driver should report, and some do for a moment.
wild = st.builds(
    lambda total, free, busy: sample(total=total, free=free, busy=busy),
    st.floats(-1, 1e6),
    st.floats(-1e6, 1e6),
    st.floats(-5, 5),
)


@pytest.mark.parametrize(
    ("free", "busy", "expected"),
    [(TOTAL, 0.0, 1.0), (0, 1.0, 0.0), (TOTAL, 1.0, 0.3), (0, 0.0, 0.7), (TOTAL / 2, 0.5, 0.5)],
)
def test_the_score_is_seven_parts_idle_and_three_parts_free(free: float, busy: float, expected: float) -> None:
    assert score(sample(free=free, busy=busy)) == pytest.approx(expected)


@given(wild)
def test_score_and_band_stay_within_their_bounds_whatever_a_driver_says(seen: DeviceSample) -> None:
    assert 0 <= score(seen) <= 1 + 1e-9
    assert consumer_priority(seen) in range(10)


@given(samples, shares, shares)
def test_a_busier_device_never_scores_more(seen: DeviceSample, one: float, other: float) -> None:
    low, high = sorted((one, other))
    calm = sample(total=seen.total_mb, free=seen.free_mb, busy=low)
    busy = sample(total=seen.total_mb, free=seen.free_mb, busy=high)
    assert score(busy) <= score(calm)
    assert consumer_priority(busy) <= consumer_priority(calm)


@given(shares, shares, shares)
def test_a_fuller_device_never_scores_more(busy: float, one: float, other: float) -> None:
    low, high = sorted((one, other))
    assert score(sample(free=low * TOTAL, busy=busy)) <= score(sample(free=high * TOTAL, busy=busy))


@given(st.lists(samples, min_size=1, max_size=8))
def test_the_first_of_the_best_is_chosen(seen: list[DeviceSample]) -> None:
    scores = [score(one) for one in seen]
    assert choose(seen) == scores.index(max(scores))


def test_there_is_nothing_to_choose_among_no_devices() -> None:
    with pytest.raises(DeviceUnavailableError):
        choose([])


@pytest.mark.parametrize(
    ("free", "busy", "band"), [(TOTAL, 0.0, 9), (0, 1.0, 0), (0, 0.0, 7), (TOTAL, 1.0, 3), (TOTAL * 0.9, 0.0, 9)]
)
def test_the_band_is_the_score_in_tenths(free: float, busy: float, band: int) -> None:
    assert consumer_priority(sample(free=free, busy=busy)) == band


@given(st.floats(0, TOTAL), st.floats(0, TOTAL), st.floats(0, 2 * TOTAL))
def test_a_task_passes_exactly_when_it_fits_beside_the_headroom(free: float, held: float, need: float) -> None:
    door = Door(free=free, held=held)
    fits = need + HEADROOM <= min(TOTAL, free + held)
    assert door.gate.may_take(need) is fits
    assert door.admit(need, hold=0) is fits
    assert (door.gate.problem is None) is fits


def test_what_our_own_child_holds_is_not_missing() -> None:
    door = Door(free=1_000, held=0)
    assert not door.gate.may_take(6_000)
    door.held = 6_000
    assert door.gate.may_take(6_000)


def test_a_task_that_fits_begins_at_once_after_a_single_look() -> None:
    door = Door()
    assert door.admit(1_000)
    assert (door.probe.samples, door.time.waits) == (1, [])


def test_a_task_is_held_until_its_memory_is_free() -> None:
    door = Door(free=0)
    for free in (100, 900, 3_000):
        door.probe.then(free_mb=free)
    assert door.admit(2_000)
    assert door.time.waits == [0.5, 0.5]
    assert door.gate.problem is None


def test_a_task_that_never_gets_its_memory_is_handed_back_after_the_hold() -> None:
    door = Door(free=100)
    assert not door.admit(2_000)
    assert door.time.now == HOLD
    assert door.probe.samples == HOLD / 0.5 + 1


def test_the_last_wait_is_no_longer_than_what_is_left_of_the_hold() -> None:
    door = Door(free=100)
    assert not door.admit(2_000, hold=1.2)
    assert door.time.waits == pytest.approx([0.5, 0.5, 0.2])


def test_memory_that_is_freed_at_the_very_end_of_the_hold_still_counts() -> None:
    door = Door(free=100)
    door.probe.then().then().then(free_mb=TOTAL)
    assert door.admit(2_000, hold=1.0)


def test_a_stop_ends_the_hold_at_once() -> None:
    door = Door(free=100, stop_at=1.0)
    assert not door.admit(2_000)
    assert door.time.now == 1.0


def test_a_task_that_fits_is_admitted_though_the_process_shall_stop() -> None:
    assert Door(stop_at=0.0).admit(1_000)


def test_a_task_too_large_for_the_empty_device_is_not_held() -> None:
    door = Door(free=100)
    assert not door.admit(TOTAL)
    assert (door.time.waits, door.gate.could_fit(TOTAL)) == ([], False)
    assert door.gate.could_fit(TOTAL - HEADROOM)


def test_a_device_that_was_never_seen_rules_nothing_out() -> None:
    assert Door().gate.could_fit(10 * TOTAL)


def test_an_error_shuts_the_gate_for_as_long_as_it_lasts() -> None:
    door = Door()
    door.probe.then(error="GPU is lost").then(error="GPU is lost").then(error=None)
    assert [door.gate.may_take(1) for _ in range(3)] == [False, False, True]


def test_errors_that_pass_within_the_bound_only_delay_a_task() -> None:
    door = Door(bound=3)
    door.probe.then(error="Timeout").then().then(error=None)
    assert door.admit(1_000)
    assert (door.time.waits, door.gate.broken) == ([0.5, 0.5], False)


def test_a_device_that_keeps_failing_is_broken_and_the_task_is_not_held_for_it() -> None:
    door = Door(bound=3)
    door.probe.now(error="GPU is lost")
    assert not door.admit(1_000)
    assert (door.time.now, door.gate.broken) == (1.0, True)
    assert door.gate.problem == "GPU is lost"


def test_one_good_look_makes_a_broken_device_whole() -> None:
    door = Door(bound=2)
    door.probe.now(error="GPU is lost")
    assert [door.gate.may_take(1), door.gate.may_take(1), door.gate.broken] == [False, False, True]
    door.probe.now(error=None)
    assert door.gate.may_take(1)
    assert (door.gate.broken, door.gate.problem) == (False, None)


def test_an_error_in_asking_for_our_own_share_shuts_the_gate_too() -> None:
    def lost() -> float:
        message = "GPU is lost"
        raise DeviceUnavailableError(message)

    probe = FakeProbe()
    gate = Gate(Device(probe, probe.devices()[0]), held_mb=lost)
    assert not gate.may_take(1)
    assert gate.problem == "GPU is lost"


def test_the_problem_says_what_is_needed_and_what_is_there() -> None:
    door = Door(free=1_000, held=250)
    assert door.gate.problem is None
    door.gate.may_take(2_000)
    assert door.gate.problem == (
        "2000 MiB and 500 MiB of headroom are needed: 1000 of 10000 MiB are free and 250 MiB are our own"
    )


def test_a_gate_that_stays_shut_is_logged_once_and_its_opening_once(logged: Logged) -> None:
    door = Door(free=100)
    for free in (100, 100, TOTAL, TOTAL):
        door.probe.now(free_mb=free)
        door.gate.may_take(2_000)
    assert [line["message"] for line in logged()] == ["gate_shut", "gate_opened"]


def test_a_failing_device_is_logged_first_when_it_counts_as_broken_and_when_it_answers_again(logged: Logged) -> None:
    door = Door(bound=3)
    door.probe.now(error="GPU is lost")
    for _ in range(5):
        door.gate.may_take(1)
    door.probe.now(error=None)
    door.gate.may_take(1)
    about_device = [line for line in logged() if line["message"].startswith("device_")]
    assert [(line["message"], line["failed_samples"]) for line in about_device] == [
        ("device_sample_failed", 1),
        ("device_sample_failed", 3),
        ("device_answers_again", 5),
    ]
    assert about_device[0]["error.code"] == "device_unavailable"


def test_a_task_that_is_handed_back_is_logged_with_its_need_and_the_reason(logged: Logged) -> None:
    door = Door(free=100)
    door.admit(2_000, hold=1.0)
    (line,) = [line for line in logged() if line["message"] == "task_not_admitted"]
    assert (line["need_mb"], line["waited_seconds"]) == (2_000, 1.0)
    assert "2000 MiB" in line["reason"]


def test_the_figures_are_those_of_the_look_that_let_the_task_in() -> None:
    door = Door(free=4_000.4, held=1_500)
    assert door.gate.figures() == {}
    door.probe.now(utilisation=0.25)
    door.admit(1_000)
    door.probe.now(free_mb=1)
    assert door.gate.figures() == {
        "device_name": "Fake GPU",
        "device_uuid": "GPU-00000000-fake",
        "device_total_mb": 10_000,
        "device_free_mb": 4_000,
        "device_held_mb": 1_500,
        "device_utilisation": 0.25,
        "driver_version": "fake-1",
    }


def test_the_consumers_band_follows_the_last_good_look_and_is_lowest_while_the_gate_is_shut() -> None:
    door = Door()
    assert door.gate.priority() == 0
    door.gate.may_take(1)
    assert door.gate.priority() == 9
    door.probe.now(utilisation=1.0)
    door.gate.may_take(1)
    assert door.gate.priority() == 3
    door.probe.now(error="GPU is lost")
    door.gate.may_take(1)
    assert door.gate.priority() == 0


class TestChildMemory:
    def held(self, held_mb: float | dict[int, float] | None, pid: int | None, reported: float = 0.0) -> float:
        probe = FakeProbe(FakeDevice(held_mb=held_mb))
        return ChildMemory(Device(probe, probe.devices()[0]), lambda: pid, lambda: reported)()

    def test_without_a_child_nothing_is_held(self) -> None:
        assert self.held(700.0, pid=None, reported=600) == 0

    def test_the_devices_own_figure_comes_before_the_childs_word(self) -> None:
        assert self.held({42: 700.0}, pid=42, reported=600) == 700

    def test_the_childs_word_counts_where_the_device_does_not_know_it(self) -> None:
        assert self.held({1: 700.0}, pid=42, reported=600) == 600


def test_a_made_up_gate_has_room_for_everything() -> None:
    assert fake_gate().admit(500_000, 0, Timeline())


def test_a_message_that_came_at_once_is_admitted_by_the_look_that_asked_for_it() -> None:
    door = Door()
    assert door.gate.may_take(100.0)
    assert door.admit(TOTAL - HEADROOM)
    assert door.probe.samples == 1


@pytest.mark.parametrize(
    ("free", "later", "need"),
    [(TOTAL, 1.0, 100.0), (TOTAL, 0.0, TOTAL), (HEADROOM, 0.0, 100.0)],
    ids=["an old look", "more than was seen", "a look that shut the gate"],
)
def test_any_other_message_is_admitted_by_a_look_of_its_own(free: float, later: float, need: float) -> None:
    door = Door(free=free)
    door.gate.may_take(100.0)
    door.time.now += later
    door.admit(need, hold=0)
    assert door.probe.samples == 2


def test_what_fits_now_is_said_without_any_effect_on_the_gate() -> None:
    door = Door(free=2000.0)
    assert door.gate.fits_now(1500.0)
    assert not door.gate.fits_now(1501.0)
    assert door.gate.problem is None
    door.probe.fail("no driver")
    assert not door.gate.fits_now(1.0)
    assert (door.gate.problem, door.gate.broken) == (None, False)
