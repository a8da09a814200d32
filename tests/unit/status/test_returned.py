from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from services.status.consumer.loops import ReturnedLoop
from services.status.consumer.metrics import ConsumerMetrics
from services.status.consumer.parking import Parking
from services.status.consumer.returned import ReturnedTasks
from shared.contracts.base import decode, encode
from shared.contracts.dead import DeadLetter
from shared.contracts.event import TaskEvent
from shared.contracts.task import TaskMessage
from shared.domain.errors import ConfigurationError, StorageError
from shared.domain.settle import ClaimMark
from shared.domain.task import EventType, TaskState
from shared.lifecycle import ExitCode, StopSignal
from shared.messaging import messages
from shared.messaging.memory import MemoryBroker, MemoryConsumer
from shared.messaging.topology import STATUS_EVENTS, STATUS_RETURNED, TASKS_DEAD, retry_queue, topology, work_queue
from shared.storage.memory import MemoryStore
from shared.storage.records import JSON, TaskRecords, claim_key, outcome_key
from tests.support.builders import (
    FINISH_WITHIN,
    MODEL,
    NOW,
    START_WITHIN,
    TASK_ID,
    WORKER,
    make_claim,
    make_outcome,
    make_task,
)

if TYPE_CHECKING:
    from shared.contracts.outcome import Claim, Outcome
    from shared.messaging.ports import Delivery

WORK = work_queue(MODEL)
PAST_START = NOW + START_WITHIN
PAST_FINISH = NOW + FINISH_WITHIN


class World:
    """The handler with a broker and a bucket in memory, and a clock that is set by hand."""

    def __init__(self) -> None:
        self.broker = MemoryBroker(topology([MODEL]))
        self.store = MemoryStore()
        self.records = TaskRecords(self.store)
        self.metrics = ConsumerMetrics()
        self.now = NOW + timedelta(seconds=5)
        self.consumer = MemoryConsumer(self.broker, STATUS_RETURNED)
        self.tasks = ReturnedTasks(
            records=self.records,
            publisher=self.broker,
            settler=self.consumer,
            parking=Parking(self.broker, self.metrics, lambda: self.now),
            metrics=self.metrics,
            clock=lambda: self.now,
        )

    def return_task(self, task: TaskMessage | None = None, *, reason: str = "expired", body: bytes = b"") -> None:
        """The task leaves its work queue through the dead-letter exchange and is handled."""
        message = messages.next_attempt(task or make_task(), self.now)
        message = replace(message, body=body or message.body, headers={"x-first-death-reason": reason})
        self.broker.dead_letter(WORK, message)
        [delivery] = self.consumer.take_batch(1, 0)
        self.tasks.handle(delivery)
        self.consumer.disconnect()
        assert self.broker.depth(STATUS_RETURNED) == 0, "the delivery is settled"

    def tasks_in(self, queue: str) -> list[TaskMessage]:
        return [decode(TaskMessage, message.body) for message in self.broker.messages(queue)]

    def events(self) -> list[TaskEvent]:
        return [decode(TaskEvent, message.body) for message in self.broker.messages(STATUS_EVENTS)]

    def parked(self) -> DeadLetter:
        [message] = self.broker.messages(TASKS_DEAD)
        return decode(DeadLetter, message.body)

    def outcome(self) -> Outcome | None:
        return self.records.outcome(TASK_ID)

    def depths(self) -> dict[str, int]:
        queues = [queue.name for queue in topology([MODEL]).queues]
        return {queue: self.broker.depth(queue) for queue in queues if self.broker.depth(queue)}


@pytest.fixture
def world() -> World:
    return World()


def test_an_undecodable_task_is_parked_with_its_reason(world: World) -> None:
    world.return_task(body=b'{"schema":1}', reason="rejected")
    [parked] = world.broker.messages(TASKS_DEAD)
    letter = world.parked()
    assert (letter.body, letter.task) == (b'{"schema":1}', None)
    assert (letter.parked_by, letter.parked_at) == ("status-consumer", world.now)
    assert parked.headers[messages.HEADER_REASON] == "undecodable"
    assert "task_id" in str(parked.headers[messages.HEADER_DETAIL])
    assert world.depths() == {TASKS_DEAD: 1}


def test_a_task_of_a_newer_schema_is_left_to_newer_software(world: World) -> None:
    body = encode(make_task()).replace(b'"schema":1', b'"schema":2')
    world.return_task(body=body)
    [waiting] = world.broker.messages(retry_queue(30))
    assert (waiting.body, waiting.routing_key) == (body, MODEL)
    assert world.depths() == {retry_queue(30): 1}


def test_a_task_that_has_ended_has_its_end_told_again(world: World) -> None:
    world.records.commit(make_outcome())
    world.return_task()
    [event] = world.events()
    assert event.type is EventType.SUCCEEDED
    assert world.depths() == {STATUS_EVENTS: 1}


def test_a_task_that_was_never_claimed_and_still_has_time_goes_back(world: World) -> None:
    world.return_task()
    assert world.tasks_in(WORK) == [make_task()]
    assert world.depths() == {WORK: 1}
    assert world.broker.messages(WORK)[0].priority == make_task().priority


def test_a_task_that_a_worker_rejected_and_we_can_read_goes_back_later(world: World) -> None:
    world.return_task(reason="rejected")
    assert world.tasks_in(retry_queue(30)) == [make_task()]
    assert world.depths() == {retry_queue(30): 1}


@pytest.mark.parametrize("now", [PAST_START, PAST_FINISH])
def test_a_task_that_was_never_claimed_and_is_late_expires(world: World, now: object) -> None:
    world.now = PAST_START if now == PAST_START else PAST_FINISH
    world.return_task()
    outcome = world.outcome()
    assert outcome is not None
    assert (outcome.state, outcome.attempt) == (TaskState.EXPIRED, 1)
    assert outcome.error is not None
    assert outcome.error.code == "expired"
    claim = world.records.find_claim(TASK_ID, 1)
    assert claim is not None
    assert claim.mark is ClaimMark.EXPIRED
    assert [event.type for event in world.events()] == [EventType.EXPIRED]


def test_a_later_attempt_that_is_late_fails_at_its_deadline(world: World) -> None:
    world.now = PAST_FINISH
    world.return_task(make_task(attempt=2))
    outcome = world.outcome()
    assert outcome is not None
    assert outcome.error is not None
    assert (outcome.state, outcome.attempt, outcome.error.code) == (TaskState.FAILED, 2, "deadline_exceeded")
    assert [event.type for event in world.events()] == [EventType.FAILED]


def test_a_later_attempt_may_start_after_the_start_deadline(world: World) -> None:
    world.now = PAST_START
    world.return_task(make_task(attempt=2))
    assert world.outcome() is None
    assert world.tasks_in(WORK) == [make_task(attempt=2)]


def test_a_claimed_attempt_within_its_budget_is_looked_at_again_later(world: World) -> None:
    world.records.claim(make_claim())
    world.return_task()
    assert world.tasks_in(retry_queue(30)) == [make_task()]
    assert world.depths() == {retry_queue(30): 1}


def test_a_claimed_attempt_past_its_budget_is_followed_by_the_next(world: World) -> None:
    world.records.claim(make_claim(run_budget_seconds=1))
    world.return_task()
    assert world.tasks_in(WORK) == [make_task(attempt=2)]
    [event] = world.events()
    assert (event.type, event.attempt) == (EventType.RETRYING, 2)
    assert event.data.error is not None
    assert event.data.error.code == "worker_lost"
    assert world.outcome() is None


def test_the_last_attempt_past_its_budget_is_parked_and_fails(world: World) -> None:
    task = make_task(attempt=3)
    world.records.claim(make_claim(attempt=3, run_budget_seconds=1))
    world.return_task(task)
    outcome = world.outcome()
    assert outcome is not None
    assert outcome.error is not None
    assert (outcome.state, outcome.error.code) == (TaskState.FAILED, "attempts_exhausted")
    letter = world.parked()
    assert (letter.task, letter.reason, letter.parked_at) == (task, "attempts_exhausted", world.now)
    assert [(each.number, each.worker) for each in letter.attempts] == [(3, WORKER)]
    assert [event.type for event in world.events()] == [EventType.FAILED]


def test_a_claim_of_another_attempt_does_not_count_as_a_start_of_this_one(world: World) -> None:
    world.records.claim(make_claim(attempt=1))
    world.return_task(make_task(attempt=2))
    assert world.tasks_in(WORK) == [make_task(attempt=2)]


def test_an_expiry_that_somebody_began_is_completed(world: World) -> None:
    world.records.claim(make_claim(mark=ClaimMark.EXPIRED))
    world.return_task()
    outcome = world.outcome()
    assert outcome is not None
    assert outcome.state is TaskState.EXPIRED


def test_a_start_between_our_look_and_our_mark_wins(world: World) -> None:
    class Racing(TaskRecords):
        def claim(self, claim: Claim) -> Claim:
            super().claim(make_claim(at=claim.at))
            return super().claim(claim)

    world.now = PAST_START
    world.tasks = ReturnedTasks(
        records=Racing(world.store),
        publisher=world.broker,
        settler=world.consumer,
        parking=Parking(world.broker, world.metrics, lambda: world.now),
        metrics=world.metrics,
        clock=lambda: world.now,
    )
    world.return_task()
    assert world.outcome() is None
    assert world.depths() == {retry_queue(30): 1}


def test_an_outcome_that_cannot_be_read_parks_the_task_for_operators(world: World) -> None:
    world.store.put(outcome_key(TASK_ID), b"garbage", media_type=JSON)
    world.return_task()
    [parked] = world.broker.messages(TASKS_DEAD)
    assert "Outcome" in str(parked.headers[messages.HEADER_DETAIL])
    assert world.parked().task == make_task()


def test_a_claim_of_newer_software_leaves_the_task_to_it(world: World) -> None:
    claim = encode(make_claim()).replace(b'"schema":1', b'"schema":2')
    world.store.put(claim_key(TASK_ID, 1), claim, media_type=JSON)
    world.return_task()
    assert world.depths() == {retry_queue(30): 1}


@pytest.mark.parametrize("broken", ["store", "broker"])
def test_when_the_store_or_the_broker_fails_nothing_is_acked(world: World, broken: str) -> None:
    world.records.commit(make_outcome())
    world.broker.dead_letter(WORK, messages.next_attempt(make_task(), world.now))
    stop = OneRound(world, broken)
    ReturnedLoop(consumer=Impatient(world.broker, stop), tasks=world.tasks, prove_store=lambda: None).run(stop)
    assert world.broker.depth(STATUS_RETURNED) == 1
    assert stop.waits == [0.5], "it breathes before the next try"


def test_a_store_that_ignores_conditions_ends_the_process(world: World) -> None:
    def prove() -> None:
        text = "the store ignores If-None-Match"
        raise ConfigurationError(text)

    stop = StopSignal()
    ReturnedLoop(consumer=world.consumer, tasks=world.tasks, prove_store=prove).run(stop)
    assert stop.exit_code is ExitCode.CONFIGURATION


def test_a_store_that_is_away_at_the_start_is_proved_later(world: World) -> None:
    tries: list[int] = []
    stop = OneRound(world, "nothing")

    def prove() -> None:
        tries.append(len(tries))
        if len(tries) < 3:
            text = "away"
            raise StorageError(text)
        stop.request()

    stop.patient = True
    ReturnedLoop(consumer=Impatient(world.broker, stop), tasks=world.tasks, prove_store=prove).run(stop)
    assert tries == [0, 1, 2]
    assert stop.waits == [0.5, 1.0]


class OneRound(StopSignal):
    """Breaks something at the first take, and stops at the first wait unless it is patient."""

    def __init__(self, world: World, broken: str) -> None:
        super().__init__()
        self.world = world
        self.broken = broken
        self.patient = False
        self.waits: list[float] = []

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        if not self.patient:
            self.request()
        return self.is_set()

    def begin(self) -> None:
        self.world.store.available = self.broken != "store"
        self.world.broker.available = self.broken != "broker"


class Impatient(MemoryConsumer):
    """Never waits for a message."""

    def __init__(self, broker: MemoryBroker, stop: OneRound) -> None:
        super().__init__(broker, STATUS_RETURNED)
        self.stop = stop

    def take_batch(self, limit: int, timeout: float) -> list[Delivery]:
        del timeout
        batch = super().take_batch(limit, 0)
        self.stop.begin()
        return batch
