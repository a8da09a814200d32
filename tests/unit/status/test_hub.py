from __future__ import annotations

import threading
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry

from services.status.api.stream_events import news_event
from services.status.errors import ViewStoreError
from services.status.store.memory import MemoryTaskViewStore
from services.status.streams import background
from services.status.streams.bulletins import EVERYTHING, task_topic, tenant_topic
from services.status.streams.hub import FAILURE_SECONDS, LINGER_SECONDS, LOOK_SECONDS, NewsHub
from services.status.streams.mailbox import End, Mailbox
from services.status.streams.metrics import StreamMetrics
from services.status.streams.waiter import HubWaiter
from shared.domain.task import EventType, TaskState
from tests.support.builders import NOW, TASK_ID, TENANT, make_event

if TYPE_CHECKING:
    from services.status.streams.bulletins import Bulletin
    from services.status.view import TaskView


class World:
    """A hub over a log in memory; it looks when it is told to."""

    def __init__(self) -> None:
        self.store = MemoryTaskViewStore()
        self.seconds = 0.0
        self.registry = CollectorRegistry()
        self.hub = NewsHub(
            self.store,
            news_event,
            StreamMetrics(self.registry),
            clock=lambda: self.seconds,
            now=lambda: NOW + timedelta(seconds=5),
        )

    def apply(self, *kinds: EventType) -> None:
        self.store.apply_events([make_event(kind) for kind in kinds], seen_until=NOW)

    def listen(self, topic: str = EVERYTHING) -> Mailbox:
        mailbox = Mailbox()
        self.hub.listen(topic, mailbox)
        return mailbox


def kinds(mailbox: Mailbox) -> list[EventType]:
    return [item.news.type for item in mailbox.take(0) if not isinstance(item, bytes)]


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("topic", [EVERYTHING, task_topic(TASK_ID), tenant_topic(TENANT)])
def test_a_listener_is_told_what_comes_from_then_on(world: World, topic: str) -> None:
    world.apply(EventType.QUEUED)
    mailbox, other = world.listen(topic), world.listen(tenant_topic("other"))
    world.apply(EventType.STARTED, EventType.SUCCEEDED)
    assert world.hub.look() == LOOK_SECONDS
    assert kinds(mailbox) == ["started", "succeeded"]
    assert kinds(other) == []
    world.hub.look()
    assert kinds(mailbox) == []


def test_who_has_left_is_told_no_more(world: World) -> None:
    mailbox, stays = world.listen(), world.listen()
    world.hub.leave(EVERYTHING, mailbox)
    world.hub.leave(EVERYTHING, mailbox)
    world.apply(EventType.QUEUED)
    world.hub.look()
    assert (kinds(mailbox), kinds(stays)) == ([], ["queued"])


def test_it_sleeps_when_nobody_has_listened_for_a_while_and_begins_anew(world: World) -> None:
    world.hub.leave(EVERYTHING, world.listen())
    world.seconds += LINGER_SECONDS + 1
    world.hub.look()
    assert not world.hub._wanted.is_set()
    world.apply(EventType.QUEUED)
    mailbox = world.listen()
    world.apply(EventType.STARTED)
    world.hub.look()
    assert kinds(mailbox) == ["started"]


def test_a_database_that_is_away_is_asked_again_and_nothing_is_missed(world: World) -> None:
    mailbox = world.listen()
    world.apply(EventType.QUEUED)
    world.store.available = False
    assert world.hub.look() == FAILURE_SECONDS
    with pytest.raises(ViewStoreError):
        asleep(world).listen(EVERYTHING, Mailbox())
    world.store.available = True
    world.hub.look()
    assert kinds(mailbox) == ["queued"]


def asleep(world: World) -> NewsHub:
    return NewsHub(world.store, news_event, StreamMetrics(CollectorRegistry()), clock=lambda: 0.0, now=lambda: NOW)


@pytest.mark.parametrize("change", ["another epoch", "older positions", "news lost"])
def test_when_the_log_is_another_one_every_listener_hears_of_it(
    world: World, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.apply(EventType.QUEUED)
    mailbox = world.listen()
    if change == "another epoch":
        world.store._epoch = "another"
    elif change == "older positions":
        world.store._news.clear()
        world.store._latest = 0
    else:
        world.apply(EventType.STARTED, EventType.PROGRESS)
        monkeypatch.setattr(world.store, "oldest", lambda: 3)
    world.seconds += 10
    world.hub.look()
    assert mailbox.end is End.RESET
    later = world.listen()
    world.apply(EventType.SUCCEEDED)
    world.hub.look()
    assert kinds(later) == ["succeeded"]


def test_news_that_cannot_be_read_is_passed_over(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    mailbox = world.listen()
    world.apply(EventType.QUEUED)
    with monkeypatch.context() as patch:
        patch.setattr(world.store, "after", lambda *_, **__: [])  # as where it is left out
        world.seconds += 10
        world.hub.look()
    world.apply(EventType.STARTED)
    world.hub.look()
    assert kinds(mailbox) == ["started"]


def test_the_lag_is_observed_and_never_below_nothing(world: World) -> None:
    world.listen()
    world.apply(EventType.QUEUED, EventType.STARTED)
    world.hub.look()
    assert world.registry.get_sample_value("atelier_stream_lag_seconds_count") == 2
    assert world.registry.get_sample_value("atelier_stream_lag_seconds_sum") == 5 + 4


def test_an_event_is_encoded_once_for_everybody(world: World) -> None:
    first, second = world.listen(), world.listen(task_topic(TASK_ID))
    world.apply(EventType.QUEUED)
    world.hub.look()
    (one,), (two,) = first.take(0), second.take(0)
    assert one is two
    bulletin: Bulletin = one  # type: ignore[assignment]
    assert bulletin.text(named=False) is bulletin.text(named=False)
    assert bulletin.text(named=True) is bulletin.text(named=True)


def test_a_long_poll_is_woken_by_its_tasks_end_and_looks_at_nothing_else(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    get = world.store.get

    def look(task_id: str) -> TaskView | None:
        looks.append(task_id)
        return get(task_id)

    monkeypatch.setattr(world.store, "get", look)
    waiter = HubWaiter(world.store, world.hub, clock=lambda: world.seconds)
    world.apply(EventType.QUEUED)
    answers: list[TaskView | None] = []
    thread = threading.Thread(target=lambda: answers.append(waiter.wait_for_end(TASK_ID, 60)), daemon=True)
    thread.start()
    while task_topic(TASK_ID) not in world.hub._listeners:
        pass
    for kind in (EventType.STARTED, EventType.PROGRESS, EventType.SUCCEEDED):
        assert answers == []
        world.apply(kind)
        world.hub.look()
    thread.join(10)
    assert [view and view.state for view in answers] == [TaskState.SUCCEEDED]
    assert looks == [TASK_ID] * 2
    assert not world.hub._listeners


def test_who_waits_for_more_than_a_tasks_news_looks_again_without_any(world: World) -> None:
    waiter = HubWaiter(world.store, world.hub, clock=lambda: world.seconds)
    answers = iter([False, False, True])
    assert waiter.wait_for(TASK_ID, lambda _view: next(answers), 60) is None
    assert not world.hub._listeners


def test_a_long_poll_answers_what_there_is_when_its_time_is_over(world: World) -> None:
    waiter = HubWaiter(world.store, world.hub, clock=lambda: world.seconds)
    assert waiter.wait_for_end(TASK_ID, 0) is None
    assert not world.hub._listeners


def test_a_step_that_crashes_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "FAILURE_SECONDS", 0.0)
    steps: list[int] = []
    done = threading.Event()

    def step() -> float:
        steps.append(1)
        if len(steps) == 1:
            message = "the first step fails"
            raise RuntimeError(message)
        done.set()
        return 3600.0

    background.repeat(step, "test")
    assert done.wait(10)
