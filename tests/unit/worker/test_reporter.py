from __future__ import annotations

from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final

import pytest

from services.worker.reporter import Pace, Reporter, ReporterFacts
from shared.contracts.base import decode
from shared.contracts.worker_report import WorkerReport, WorkerState
from shared.domain.errors import BrokerUnavailableError
from shared.messaging.topology import WORKERS
from tests.support.builders import make_report

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shared.contracts.worker_report import TierReport
    from shared.messaging.ports import OutboundMessage

SECONDS: Final = 10.0
NEVER: Final = 3600.0
NOW: Final = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)


class Recorder:
    """A Publisher that keeps what it is given, and can be told to fail."""

    def __init__(self) -> None:
        self.messages: SimpleQueue[OutboundMessage] = SimpleQueue()
        self.failures = 0

    def publish(self, *messages: OutboundMessage, timeout: float) -> None:
        if self.failures:
            self.failures -= 1
            raise BrokerUnavailableError
        assert timeout > 0
        for message in messages:
            self.messages.put(message)

    def next(self) -> WorkerReport:
        return decode(WorkerReport, self.messages.get(timeout=SECONDS).body)

    def silent(self) -> bool:
        try:
            self.messages.get(timeout=0.05)
        except Empty:
            return True
        return False


class FakeTeacher:
    def __init__(self) -> None:
        self.version = 0

    def tiers(self) -> tuple[TierReport, ...]:
        return make_report().tiers


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def teacher() -> FakeTeacher:
    return FakeTeacher()


def make(recorder: Recorder, teacher: FakeTeacher, pace: Pace) -> Reporter:
    facts = ReporterFacts(worker="worker-1", model="simulated", device="H200", capacity_mb=100)
    return Reporter(publisher=recorder, teacher=teacher, facts=facts, clock=lambda: NOW, pace=pace)


@pytest.fixture
def reporter(recorder: Recorder, teacher: FakeTeacher) -> Iterator[Reporter]:
    """Tells changes at once, and nothing else by itself."""
    reporter = make(recorder, teacher, Pace(changed=0, learnt=NEVER, unchanged=NEVER))
    reporter.start()
    yield reporter
    reporter.stop()


def test_the_first_word_is_that_it_starts_with_all_that_is_needed_to_price(
    reporter: Reporter, recorder: Recorder
) -> None:
    del reporter
    message = recorder.messages.get(timeout=SECONDS)
    assert (message.exchange, message.routing_key, message.mandatory) == (WORKERS, "simulated.worker-1", False)
    report = decode(WorkerReport, message.body)
    assert (report.state, report.at, report.capacity_mb) == (WorkerState.STARTING, NOW, 100)
    assert report.tiers == make_report().tiers


def test_a_change_of_state_is_told_and_the_same_state_is_not(reporter: Reporter, recorder: Recorder) -> None:
    recorder.next()
    reporter.state(WorkerState.BUSY)
    assert recorder.next().state is WorkerState.BUSY
    reporter.state(WorkerState.BUSY)
    assert recorder.silent()


def test_the_last_word_is_that_it_drains(recorder: Recorder, teacher: FakeTeacher) -> None:
    reporter = make(recorder, teacher, Pace(changed=NEVER, learnt=NEVER, unchanged=NEVER))
    reporter.start()
    recorder.next()
    reporter.stop()
    assert recorder.next().state is WorkerState.DRAINING
    assert recorder.silent()


def test_changes_within_the_pace_are_told_together(recorder: Recorder, teacher: FakeTeacher) -> None:
    reporter = make(recorder, teacher, Pace(changed=NEVER, learnt=NEVER, unchanged=NEVER))
    reporter.start()
    recorder.next()
    for state in (WorkerState.READY, WorkerState.BUSY):
        reporter.state(state)
    assert recorder.silent()
    reporter.stop()


def test_what_was_learnt_is_told_without_a_change_of_state(recorder: Recorder, teacher: FakeTeacher) -> None:
    reporter = make(recorder, teacher, Pace(changed=0, learnt=0.01, unchanged=NEVER))
    reporter.start()
    recorder.next()
    assert recorder.silent()
    teacher.version = 1
    assert recorder.next().state is WorkerState.STARTING
    reporter.stop()


def test_it_repeats_itself_so_that_it_is_not_forgotten(recorder: Recorder, teacher: FakeTeacher) -> None:
    reporter = make(recorder, teacher, Pace(changed=NEVER, learnt=NEVER, unchanged=0.01))
    reporter.start()
    assert recorder.next() == recorder.next()
    reporter.stop()


def test_a_report_that_could_not_be_sent_is_made_up_for(recorder: Recorder, teacher: FakeTeacher) -> None:
    recorder.failures = 2
    reporter = make(recorder, teacher, Pace(changed=0.01, learnt=NEVER, unchanged=NEVER))
    reporter.start()
    assert recorder.next().state is WorkerState.STARTING
    reporter.stop()
