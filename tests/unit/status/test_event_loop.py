from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from services.status import applying
from services.status.consumer.events import STORE_BACKOFF_SECONDS, EventLoop
from services.status.consumer.metrics import ConsumerMetrics
from services.status.consumer.parking import Parking
from services.status.errors import UnstorableError, ViewStoreError
from services.status.store.memory import MemoryTaskViewStore
from shared.contracts.base import decode
from shared.contracts.dead import DeadLetter, Origin
from shared.domain.task import EventType, TaskState
from shared.ids import new_task_id
from shared.lifecycle import ExitCode, StopSignal
from shared.messaging import messages
from shared.messaging.memory import MemoryBroker, MemoryConsumer
from shared.messaging.topology import EVENTS, STATUS_EVENTS, TASKS_DEAD, topology
from tests.support.builders import NOW, TASK_ID, make_event, make_task, outbound

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.status.view import TaskView
    from shared.contracts.event import TaskEvent
    from shared.messaging.ports import Delivery, OutboundMessage


class ImpatientStop(StopSignal):
    """Notes how long it was asked to wait, and waits not at all."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        return self.is_set()


class DrainingConsumer(MemoryConsumer):
    """Never waits. After so many takes it has nothing any more, and says stop."""

    def __init__(self, broker: MemoryBroker, stop: StopSignal, takes: int) -> None:
        super().__init__(broker, STATUS_EVENTS)
        self.stop = stop
        self.takes = takes

    def take_batch(self, limit: int, timeout: float) -> list[Delivery]:
        del timeout
        if self.takes == 0:
            self.stop.request()
            return []
        self.takes -= 1
        return super().take_batch(limit, 0)


class FlakyStore(MemoryTaskViewStore):
    """Fails the next so many writes, and has no place for events of some tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.failures = 0
        self.refused: set[str] = set()
        self.batches: list[int] = []

    def apply_events(
        self, events: Sequence[TaskEvent], *, seen_until: datetime | None, tell_since: datetime | None = None
    ) -> None:
        if self.refused & {event.task_id for event in events}:
            text = "a text with a NUL"
            raise UnstorableError(text)
        if self.failures:
            self.failures -= 1
            text = "the database is locked"
            raise ViewStoreError(text)
        super().apply_events(events, seen_until=seen_until, tell_since=tell_since)
        if events:
            self.batches.append(len(events))


class World:
    """The loop with a broker and a database in memory, and a clock that stands still."""

    def __init__(self) -> None:
        self.broker = MemoryBroker(topology(["simulated"]))
        self.parked = self.broker
        self.store = FlakyStore()
        self.metrics = ConsumerMetrics()
        self.stop = ImpatientStop()
        self.connected = True
        self.now = NOW + timedelta(seconds=10)

    def publish(self, *outgoing: OutboundMessage) -> None:
        self.broker.publish(*outgoing, timeout=1)

    def run(self, takes: int = 1) -> MemoryConsumer:
        self.stop = ImpatientStop()
        consumer = DrainingConsumer(self.broker, self.stop, takes)
        EventLoop(
            consumer=consumer,
            connected=lambda: self.connected,
            store=self.store,
            parking=Parking(self.parked, self.metrics, lambda: self.now),
            metrics=self.metrics,
            clock=lambda: self.now,
        ).run(self.stop)
        return consumer

    def state(self, task_id: str = TASK_ID) -> TaskState | None:
        view = self.store.get(task_id)
        return None if view is None else view.state

    def metric(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


@pytest.fixture
def world() -> World:
    return World()


def test_a_batch_is_applied_in_one_transaction_and_acked_as_a_whole(world: World) -> None:
    tasks = [make_task(task_id=new_task_id()) for _ in range(20)]
    world.publish(*(messages.event(make_event(task=task)) for task in tasks))
    consumer = world.run()
    assert world.store.batches == [20]
    assert {world.state(task.task_id) for task in tasks} == {TaskState.QUEUED}
    consumer.disconnect()
    assert world.broker.depth(STATUS_EVENTS) == 0


def test_events_are_counted_by_type_with_their_lag(world: World) -> None:
    world.publish(messages.event(make_event()), messages.event(make_event(EventType.STARTED)))
    world.run()
    assert world.metric("atelier_status_events_applied_total", type="started") == 1
    assert world.metric("atelier_status_lag_seconds_sum") == pytest.approx(10 + 9)
    assert world.metric("atelier_status_batch_events_sum") == 2


def test_a_corrupt_event_is_parked_alone_with_its_reason_and_the_others_are_applied(world: World) -> None:
    world.publish(
        messages.event(make_event()),
        outbound(EVENTS, "queued.acme", b"not json"),
        messages.event(make_event(EventType.STARTED)),
    )
    world.run().disconnect()
    assert world.state() is TaskState.RUNNING
    assert world.broker.depth(STATUS_EVENTS) == 0
    [parked] = world.broker.messages(TASKS_DEAD)
    letter = decode(DeadLetter, parked.body)
    assert (letter.body, letter.task, letter.parked_at) == (b"not json", None, world.now)
    assert letter.origin == Origin(exchange=EVENTS, routing_key="queued.acme", message_id="not json")
    assert parked.headers[messages.HEADER_REASON] == "undecodable"
    assert "JSON" in str(parked.headers[messages.HEADER_DETAIL])
    assert parked.headers[messages.HEADER_ROUTING_KEY] == "queued.acme"


def test_an_event_that_the_database_cannot_hold_is_parked_alone_and_the_others_are_applied(world: World) -> None:
    tasks = [make_task(task_id=new_task_id()) for _ in range(3)]
    world.store.refused = {tasks[1].task_id}
    world.publish(*(messages.event(make_event(EventType.STARTED, task)) for task in tasks))
    world.run().disconnect()
    assert [world.state(task.task_id) for task in tasks] == [TaskState.RUNNING, None, TaskState.RUNNING]
    assert world.broker.depth(STATUS_EVENTS) == 0
    [parked] = world.broker.messages(TASKS_DEAD)
    assert decode(DeadLetter, parked.body).detail == "a text with a NUL"
    assert parked.headers[messages.HEADER_REASON] == "unstorable"
    assert world.store.seen_until() == NOW + timedelta(seconds=1)
    assert world.metric("atelier_status_events_applied_total", type="started") == 2


def test_an_event_from_which_nothing_can_be_told_is_parked_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def notice(_news: object, _before: object, view: TaskView) -> None:
        if view.submission is not None and view.submission.callback:
            message = "a number beyond all bounds"
            raise TypeError(message)

    sound, odd = (make_task(task_id=new_task_id(), callback=url) for url in (None, "https://client.example/"))
    monkeypatch.setattr(applying, "notice_of", notice)
    world.publish(*(messages.event(make_event(EventType.STARTED, task)) for task in (odd, sound)))
    world.run().disconnect()
    assert (world.state(sound.task_id), world.broker.depth(STATUS_EVENTS)) == (TaskState.RUNNING, 0)
    [parked] = world.broker.messages(TASKS_DEAD)
    assert parked.headers[messages.HEADER_REASON] == "unstorable"


def test_an_event_of_a_newer_schema_is_parked_with_that_reason(world: World) -> None:
    event = messages.event(make_event())
    world.publish(replace(event, body=event.body.replace(b'"schema":1', b'"schema":99')))
    world.run()
    [parked] = world.broker.messages(TASKS_DEAD)
    assert parked.headers[messages.HEADER_REASON] == "newer_schema"
    assert world.state() is None


def test_a_corrupt_event_that_cannot_be_parked_goes_back_and_holds_nobody_up(world: World) -> None:
    world.parked = MemoryBroker(topology(["simulated"]))
    world.parked.available = False
    world.publish(messages.event(make_event()), outbound(EVENTS, "queued.acme", b"not json"))
    world.run().disconnect()
    assert world.state() is TaskState.QUEUED
    assert [message.body for message in world.broker.messages(STATUS_EVENTS)] == [b"not json"]
    assert world.stop.waits, "it is not tried again at once"


def test_a_database_that_fails_for_a_moment_is_tried_again_before_anything_is_acked(world: World) -> None:
    world.store.failures = 3
    world.publish(messages.event(make_event()))
    world.run().disconnect()
    assert world.state() is TaskState.QUEUED
    assert world.stop.waits == list(STORE_BACKOFF_SECONDS[:3])
    assert world.broker.depth(STATUS_EVENTS) == 0


def test_a_database_that_stays_away_ends_the_process_with_nothing_acked(world: World) -> None:
    world.store.failures = 10**6
    world.publish(messages.event(make_event()), outbound(EVENTS, "queued.acme", b"not json"))
    world.run(takes=5).disconnect()
    assert world.stop.exit_code is ExitCode.DEPENDENCY
    assert world.broker.depth(STATUS_EVENTS) == 2
    assert world.broker.depth(TASKS_DEAD) == 0


def test_the_view_has_seen_up_to_the_newest_event_but_never_into_the_future(world: World) -> None:
    world.publish(messages.event(make_event(EventType.STARTED)))
    world.run()
    assert world.store.seen_until() == NOW + timedelta(seconds=1)
    ahead = make_task(submitted_at=NOW + timedelta(days=365))
    world.publish(messages.event(make_event(task=ahead)))
    world.run()
    assert world.store.seen_until() == world.now


def test_two_idle_looks_in_a_row_show_that_everything_before_them_was_seen(world: World) -> None:
    world.run(takes=0)
    assert world.store.seen_until() is None
    world.run(takes=1)
    assert world.store.seen_until() == world.now


def test_an_idle_look_without_a_connection_shows_nothing(world: World) -> None:
    world.connected = False
    world.run(takes=4)
    assert world.store.seen_until() is None
