from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from services.worker.relay import EventRelay
from shared.contracts.base import decode
from shared.contracts.event import Preview, Progress, TaskEvent, progress_event, started_event
from shared.domain.errors import BrokerUnavailableError
from shared.domain.task import EventType, Phase
from tests.support.builders import EXECUTION, NOW, WORKER, make_task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from shared.messaging.ports import OutboundMessage

PATIENCE = 10


class StuckPublisher:
    """Publishes nothing until it is released; then it may fail for the first so many."""

    def __init__(self) -> None:
        self.sent: list[TaskEvent] = []
        self.entered = threading.Event()
        self.released = threading.Event()
        self.failures = 0

    def publish(self, *messages: OutboundMessage, timeout: float) -> None:
        del timeout
        self.entered.set()
        assert self.released.wait(PATIENCE)
        if self.failures:
            self.failures -= 1
            text = "blocked by an alarm"
            raise BrokerUnavailableError(text)
        self.sent += [decode(TaskEvent, message.body) for message in messages]


@pytest.fixture
def publisher() -> StuckPublisher:
    return StuckPublisher()


@pytest.fixture
def relay(publisher: StuckPublisher) -> Iterator[EventRelay]:
    """A relay whose thread is stuck in its first publish."""
    made = EventRelay(publisher)
    made.start()
    made.offer(started(99))
    assert publisher.entered.wait(PATIENCE)
    yield made
    publisher.released.set()
    made.stop()


def task_id(number: int) -> str:
    return f"019b8e1b-7800-7abc-8def-{number:012}"


def started(number: int) -> TaskEvent:
    return started_event(make_task(task_id=task_id(number)), worker=WORKER, execution=EXECUTION, at=NOW)


def progress(number: int, step: int, preview: Preview | None = None) -> TaskEvent:
    news = Progress(phase=Phase.DENOISING, step=step, steps=500, preview=preview)
    return progress_event(make_task(task_id=task_id(number)), news, sequence=1 + step, at=NOW)


def finish(relay: EventRelay, publisher: StuckPublisher) -> list[tuple[int, EventType, int]]:
    publisher.released.set()
    relay.stop()
    return [(int(event.task_id[-2:]), event.type, event.sequence) for event in publisher.sent]


def test_offering_never_waits_and_newer_progress_takes_the_place_of_older(
    relay: EventRelay, publisher: StuckPublisher
) -> None:
    relay.offer(started(1))
    for step in range(1, 501):
        relay.offer(progress(1, step))  # would hang here if it waited for the publisher
    assert publisher.sent == []
    assert finish(relay, publisher)[1:] == [(1, EventType.STARTED, 1), (1, EventType.PROGRESS, 501)]


def test_a_preview_outlives_the_progress_that_it_came_with(relay: EventRelay, publisher: StuckPublisher) -> None:
    first, second = (Preview(media_type="image/jpeg", data=data, width=8, height=8) for data in ("AAAA", "BBBB"))
    for step, preview in enumerate((None, first, None, second, None, None), start=1):
        relay.offer(progress(1, step, preview))
    finish(relay, publisher)
    news = publisher.sent[-1].data.progress
    assert news is not None
    assert (news.step, news.preview) == (6, second)


def test_progress_takes_the_place_of_nothing_else(relay: EventRelay, publisher: StuckPublisher) -> None:
    for event in (progress(1, 1), started(2), progress(2, 1), progress(1, 2), progress(2, 2)):
        relay.offer(event)
    assert finish(relay, publisher)[1:] == [
        (1, EventType.PROGRESS, 2),
        (2, EventType.STARTED, 1),
        (2, EventType.PROGRESS, 2),
        (1, EventType.PROGRESS, 3),
        (2, EventType.PROGRESS, 3),
    ]


def test_what_piles_up_is_bounded_and_the_oldest_makes_room(relay: EventRelay, publisher: StuckPublisher) -> None:
    for number in range(80):
        relay.offer(started(number))
    assert [number for number, _, _ in finish(relay, publisher)[1:]] == list(range(16, 80))


def test_an_event_that_cannot_be_sent_is_logged_with_its_task_and_the_next_one_goes_out(
    relay: EventRelay, publisher: StuckPublisher, logged: Callable[[], list[dict[str, Any]]]
) -> None:
    publisher.failures = 1
    relay.offer(started(1))
    assert finish(relay, publisher) == [(1, EventType.STARTED, 1)]
    (line,) = logged()
    assert (line["message"], line["task_id"], line["error.code"]) == (
        "event_not_sent",
        task_id(99),
        "broker_unavailable",
    )


def test_stopping_sends_what_waits(relay: EventRelay, publisher: StuckPublisher) -> None:
    relay.offer(started(1))
    relay.offer(started(2))
    assert [number for number, _, _ in finish(relay, publisher)] == [99, 1, 2]
