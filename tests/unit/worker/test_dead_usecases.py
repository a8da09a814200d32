from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import structlog.testing

from services.worker.dead.parked import Filter
from services.worker.dead.usecases import DeadLetters, Fate
from shared.contracts.base import encode
from shared.domain.errors import BrokerUnavailableError, StorageError
from shared.domain.task import EventType
from shared.ids import retried_id
from shared.messaging import messages
from shared.messaging.memory import MemoryBrowser
from shared.messaging.topology import TASKS_DEAD, work_queue
from shared.storage.records import JSON, outcome_key
from tests.support.builders import FINISH_WITHIN, MODEL, NOW, TASK_ID, TENANT, make_dead_letter, make_outcome, make_task
from tests.support.dead import LATER, OTHER_MODEL, DeadWorld, as_newer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.worker.dead.usecases import Result
    from shared.contracts.dead import DeadLetter
    from shared.contracts.task import TaskMessage
    from shared.messaging.ports import Delivery, OutboundMessage, QueueLook


@pytest.fixture
def world() -> DeadWorld:
    return DeadWorld()


def task_of(letter: DeadLetter) -> TaskMessage:
    assert letter.task is not None
    return letter.task


def fates(results: list[Result]) -> list[Fate]:
    return [done.fate for done in results]


# Looking


def test_looking_shows_all_in_order_and_takes_nothing_away(world: DeadWorld) -> None:
    parked = [task_of(world.park_new()).task_id for _ in range(120)]
    for _ in range(2):
        assert [each.ident for each in world.seen()] == parked
    assert world.left() == 120


def test_a_limit_counts_those_that_are_meant_oldest_first(world: DeadWorld) -> None:
    own = [task_of(world.park_new(tenant_id=tenant)).task_id for tenant in ("acme", "zeus") * 60]
    assert [each.ident for each in world.seen(Filter(tenant="zeus"), 3)] == own[1:7:2]
    assert world.left() == 120


# Replay


def test_a_replay_is_a_new_task_that_names_the_old_one_told_and_then_taken_out(world: DeadWorld) -> None:
    old = task_of(world.park())
    new_id = world.replayed()
    (task,) = world.tasks()
    assert (task.task_id, task.retry_of, task.attempt, task.params) == (new_id, old.task_id, 1, old.params)
    assert (task.submitted_at, task.finish_deadline) == (LATER, LATER + FINISH_WITHIN)
    (event,) = world.events()
    assert (event.type, event.task_id, event.data.task) == (EventType.QUEUED, new_id, task)
    assert world.left() == 0


def test_it_lies_in_the_work_queue_as_the_gateway_would_have_put_it_there(world: DeadWorld) -> None:
    world.park(make_dead_letter(task=make_task(attempt=3, priority=8)))
    world.replayed()
    (message,) = world.broker.messages(work_queue(MODEL))
    (task,) = world.tasks()
    assert message == messages.new_task(task, LATER)
    assert message.priority == 8


def test_the_new_id_bears_the_time_at_which_the_old_task_ended(world: DeadWorld) -> None:
    letter = world.park()
    assert world.replayed() == retried_id(TASK_ID, letter.parked_at + timedelta(milliseconds=7))


def test_a_task_that_was_parked_twice_becomes_one_new_task(world: DeadWorld) -> None:
    world.park()
    world.park(make_dead_letter(parked_at=NOW + timedelta(minutes=5)), state=None)
    results = world.replay()
    assert fates(results) == [Fate.REPLAYED, Fate.ALREADY_REPLAYED]
    assert len({done.retried_as for done in results}) == 1
    assert (len(world.tasks()), world.left()) == (1, 0)


def test_a_copy_that_was_parked_after_the_replay_makes_the_same_task_again(world: DeadWorld) -> None:
    world.park()
    first = world.replayed()
    world.park(make_dead_letter(parked_at=NOW + timedelta(minutes=5)), state=None)
    world.now += timedelta(hours=1)
    assert world.replayed() == first
    assert {task.task_id for task in world.tasks()} == {first}


@pytest.mark.parametrize("state", ["succeeded", "failed", "expired", "cancelled"])
def test_a_replay_that_has_ended_already_is_not_published_again(world: DeadWorld, state: str) -> None:
    letter = world.park()
    new_id = retried_id(TASK_ID, letter.parked_at + timedelta(milliseconds=7))
    world.records.commit(make_outcome(task=make_task(task_id=new_id), state=state))
    (done,) = world.replay()
    assert (done.fate, done.retried_as, done.why) == (Fate.ALREADY_REPLAYED, new_id, state)
    assert (world.tasks(), world.events(), world.left()) == ([], [], 0)


def test_a_replay_that_ended_in_a_way_that_cannot_be_read_is_not_published_again(world: DeadWorld) -> None:
    letter = world.park()
    new_id = retried_id(TASK_ID, letter.parked_at + timedelta(milliseconds=7))
    world.store.put(outcome_key(new_id), b"garbage", media_type=JSON)
    assert fates(world.replay()) == [Fate.ALREADY_REPLAYED]
    assert world.tasks() == []


def test_a_replay_that_dies_again_can_be_replayed_again(world: DeadWorld) -> None:
    world.park()
    first = world.replayed()
    (task,) = world.tasks()
    world.park(make_dead_letter(task=task.model_copy(update={"attempt": 3})))
    second = world.replayed()
    assert [each.retry_of for each in world.tasks()] == [TASK_ID, first]
    assert len({TASK_ID, first, second}) == 3


def test_only_those_that_are_meant_are_replayed_and_the_others_keep_their_order(world: DeadWorld) -> None:
    letters = [world.park_new(model=model) for model in (MODEL, OTHER_MODEL, MODEL, OTHER_MODEL)]
    kept = [encode(letter) for letter in letters[::2]]
    assert fates(world.replay(Filter(model=OTHER_MODEL))) == [Fate.REPLAYED] * 2
    assert [task.retry_of for task in world.tasks(OTHER_MODEL)] == [task_of(each).task_id for each in letters[1::2]]
    assert world.bodies() == kept


def test_a_dry_run_tells_the_new_id_and_does_nothing(world: DeadWorld) -> None:
    world.park()
    (would,) = world.replay(dry_run=True)
    assert (would.fate, world.tasks(), world.events(), world.left()) == (Fate.WOULD_REPLAY, [], [], 1)
    assert would.retried_as == world.replayed()


def test_a_task_that_the_first_version_parked_is_replayed_too(world: DeadWorld) -> None:
    world.park_as_before(encode(make_task(attempt=3)))
    world.records.commit(make_outcome(state="failed", ended_at=NOW))
    assert world.replayed() == retried_id(TASK_ID, NOW)


# What cannot be replayed stays where it is


def refused(world: DeadWorld) -> str:
    before = world.bodies()
    (done,) = world.replay()
    assert (done.fate, done.retried_as) == (Fate.REFUSED, None)
    assert world.bodies() == before
    assert (world.tasks(), world.events()) == ([], [])
    return done.why


def test_a_message_that_is_no_task_is_refused(world: DeadWorld) -> None:
    world.park_body()
    assert "no task that can be read" in refused(world)


def test_a_letter_of_a_newer_version_is_refused(world: DeadWorld) -> None:
    letter = make_dead_letter()
    world.broker.publish(replace(messages.dead(letter), body=as_newer(letter)), timeout=1)
    assert "schema 2" in refused(world)


def test_a_task_that_has_not_ended_is_refused_until_it_has(world: DeadWorld) -> None:
    letter = world.park(state=None)
    assert "not ended" in refused(world)
    world.records.commit(make_outcome(task=task_of(letter), state="failed"))
    assert world.replayed()


@pytest.mark.parametrize("state", ["succeeded", "cancelled"])
def test_a_task_that_has_ended_otherwise_after_all_is_refused(world: DeadWorld, state: str) -> None:
    world.park(state=state)
    assert state in refused(world)


def test_a_task_whose_model_is_no_longer_served_is_refused(world: DeadWorld) -> None:
    world.park_new(model="retired")
    assert "retired" in refused(world)


def test_an_outcome_of_newer_software_is_left_to_it(world: DeadWorld) -> None:
    world.park(state=None)
    outcome = encode(make_outcome(state="failed")).replace(b'"schema":1', b'"schema":2', 1)
    world.store.put(outcome_key(TASK_ID), outcome, media_type=JSON)
    assert "schema 2" in refused(world)


def test_one_that_is_refused_does_not_hold_up_the_others(world: DeadWorld) -> None:
    world.park_body()
    world.park()
    world.park_new(model="retired")
    world.park_new()
    assert fates(world.replay()) == [Fate.REFUSED, Fate.REPLAYED, Fate.REFUSED, Fate.REPLAYED]
    assert world.left() == 2


# Tasks that were parked since something about them cannot be read


def test_a_task_whose_outcome_cannot_be_read_is_replayed_with_the_time_of_parking(world: DeadWorld) -> None:
    letter = world.park(make_dead_letter(reason="undecodable"), state=None)
    world.store.put(outcome_key(TASK_ID), b"garbage", media_type=JSON)
    assert world.replayed() == retried_id(TASK_ID, letter.parked_at)


def test_a_task_that_nobody_will_end_is_replayed_with_the_time_of_parking(world: DeadWorld) -> None:
    letter = world.park(make_dead_letter(reason="undecodable"), state=None)
    assert world.replayed() == retried_id(TASK_ID, letter.parked_at)


def test_the_same_from_the_first_version_is_replayed_with_the_time_of_the_task(world: DeadWorld) -> None:
    world.park_as_before(encode(make_task()), reason="undecodable")
    new_id = world.replayed()
    assert new_id[:13] == TASK_ID[:13]


# Dying and failing


class Death(BaseException):
    """The process ends here."""


class MortalLook:
    """Dies at the first removal, before it happened or after."""

    def __init__(self, look: QueueLook, *, before: bool) -> None:
        self._look = look
        self._before = before

    def page(self, limit: int) -> list[Delivery]:
        return self._look.page(limit)

    def take_out(self, delivery: Delivery) -> None:
        if not self._before:
            self._look.take_out(delivery)
        raise Death


class MortalBrowser:
    def __init__(self, world: DeadWorld, *, before: bool) -> None:
        self._inner = MemoryBrowser(world.broker, TASKS_DEAD)
        self._before = before

    @contextmanager
    def look(self) -> Iterator[QueueLook]:
        with self._inner.look() as look:
            yield MortalLook(look, before=self._before)


@pytest.mark.parametrize("before", [True, False])
def test_dying_between_publish_and_removal_or_after_it_makes_one_task(world: DeadWorld, before: bool) -> None:
    world.park()
    world.park_new()
    mortal = DeadLetters(
        browser=MortalBrowser(world, before=before),
        publisher=world.broker,
        records=world.records,
        clock=lambda: world.now,
        actor="olga",
    )
    with pytest.raises(Death):
        mortal.replay(Filter(), None, lambda _: None)
    assert (len(world.tasks()), world.left()) == (1, 2 if before else 1)
    world.now += timedelta(minutes=10)
    world.replay()
    assert len({task.task_id for task in world.tasks()}) == 2
    assert len({task.retry_of for task in world.tasks()}) == 2
    assert world.left() == 0


def test_a_broker_that_goes_away_leaves_the_letters_there(world: DeadWorld) -> None:
    world.park()
    world.park_new()
    publish = world.broker.publish

    def breaks(*outgoing: OutboundMessage, timeout: float) -> None:
        publish(*outgoing, timeout=timeout)
        world.broker.available = False

    world.broker.publish = breaks  # type: ignore[method-assign] # goes away after the first task
    with pytest.raises(BrokerUnavailableError):
        world.replay()
    assert world.left() == 2


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_bucket_that_is_away_leaves_the_letters_there(world: DeadWorld, dry_run: bool) -> None:
    world.park()
    world.store.available = False
    with pytest.raises(StorageError):
        world.replay(dry_run=dry_run)
    assert (world.left(), world.tasks()) == (1, [])


def test_nobody_but_the_replay_needs_the_bucket(world: DeadWorld) -> None:
    world.park()
    world.store.available = False
    assert len(world.seen()) == 1
    assert fates(world.drop()) == [Fate.DROPPED]


# Drop


def test_what_is_dropped_is_gone_and_the_others_keep_their_order(world: DeadWorld) -> None:
    letters = [world.park_new(tenant_id=tenant) for tenant in ("acme", "zeus", "acme", "zeus")]
    assert fates(world.drop(Filter(tenant="zeus"))) == [Fate.DROPPED] * 2
    assert world.bodies() == [encode(letter) for letter in letters[::2]]
    assert (world.tasks(), world.events()) == ([], [])


def test_a_message_that_cannot_be_read_can_be_dropped_by_its_name(world: DeadWorld) -> None:
    world.park_body(b"one")
    world.park_body(b"two")
    (first, second) = world.seen()
    assert fates(world.drop(Filter(ident=first.ident))) == [Fate.DROPPED]
    assert [each.ident for each in world.seen()] == [second.ident]


def test_a_dry_drop_drops_nothing(world: DeadWorld) -> None:
    world.park()
    assert fates(world.drop(dry_run=True)) == [Fate.WOULD_DROP]
    assert world.left() == 1


def test_a_limit_bounds_what_is_done(world: DeadWorld) -> None:
    ids = [task_of(world.park_new()).task_id for _ in range(5)]
    assert [done.parked.ident for done in world.drop(limit=2)] == ids[:2]
    assert [done.parked.ident for done in world.replay(limit=2)] == ids[2:4]
    assert world.left() == 1


# Audit


def audits(world: DeadWorld, action: str) -> list[dict[str, object]]:
    with structlog.testing.capture_logs() as logs:
        world.replay() if action == "replay" else world.drop()
    return [dict(line) for line in logs if line["event"] == "audit"]


def test_a_replay_is_audited_before_and_after_it_is_done(world: DeadWorld) -> None:
    world.park()
    begin, done = audits(world, "replay")
    (task,) = world.tasks()
    assert [begin["phase"], done["phase"]] == ["begin", "done"]
    for line in (begin, done):
        assert line["action"] == "dead_letter_replay"
        assert (line["actor"], line["log_level"]) == ("olga", "info")
        assert (line["task_id"], line["tenant_id"], line["model"]) == (TASK_ID, TENANT, MODEL)
        assert (line["reason"], line["retried_as"]) == ("runner_crashed", task.task_id)


def test_a_refusal_is_audited_with_its_reason(world: DeadWorld) -> None:
    world.park_body(message_id="m-1")
    (line,) = audits(world, "replay")
    assert (line["phase"], line["task_id"], line["tenant_id"]) == ("refused", "m-1", None)
    assert "no task" in str(line["why"])


def test_a_drop_is_audited_before_and_after_it_is_done(world: DeadWorld) -> None:
    world.park()
    assert [(line["action"], line["phase"]) for line in audits(world, "drop")] == [
        ("dead_letter_drop", "begin"),
        ("dead_letter_drop", "done"),
    ]


def test_no_audit_event_holds_the_prompt(world: DeadWorld) -> None:
    world.park()
    assert "lighthouse" not in str(audits(world, "replay"))
