from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from shared.auth.plans import load_plans
from shared.contracts.base import decode
from shared.contracts.control import ControlMessage, Order
from shared.contracts.event import TaskEvent, ended_event, retrying_event
from shared.contracts.outcome import ErrorInfo, Outcome
from shared.domain.plans import ANONYMOUS_PREFIX
from shared.domain.settle import ClaimMark
from shared.domain.task import EventType, TaskState
from shared.messaging.topology import STATUS_EVENTS
from shared.storage.records import JSON, claim_key, outcome_key
from tests.support.builders import NOW, TASK_ID, make_claim, make_event, make_outcome, make_task
from tests.support.status_api import ORDERS, WHOLE, StatusApiWorld, assert_problem
from tests.support.tenants import plans_with_anonymous

if TYPE_CHECKING:
    from pathlib import Path

    from shared.messaging.ports import OutboundMessage

UNKNOWN = "/api/v1/tasks/019b8e1b-7800-7abc-8def-ffffffffffff"


@pytest.fixture
def world() -> StatusApiWorld:
    return StatusApiWorld()


def outcome(world: StatusApiWorld) -> Outcome:
    found = world.records.outcome(TASK_ID)
    assert found is not None
    return found


def told(world: StatusApiWorld) -> list[TaskEvent]:
    return [decode(TaskEvent, message.body) for message in world.broker.messages(STATUS_EVENTS)]


def orders(world: StatusApiWorld) -> list[ControlMessage]:
    return [decode(ControlMessage, message.body) for message in world.broker.messages(ORDERS)]


@pytest.mark.parametrize("news", [(), (EventType.STARTED,), (EventType.STARTED, EventType.RETRYING)])
def test_an_open_task_is_ended_and_everybody_is_told(world: StatusApiWorld, news: tuple[EventType, ...]) -> None:
    world.apply(make_event(), *map(make_event, news))
    response = world.delete()
    body = response.get_json()
    assert (response.status_code, body["state"], body["client_state"]) == (202, "cancelled", "cancelled")
    assert body["error"] == {"code": "cancelled", "message": "the task was cancelled by its client"}
    assert response.headers["Cache-Control"] == "no-store"
    assert (outcome(world).state, outcome(world).worker) == (TaskState.CANCELLED, "status-api")
    assert told(world) == [ended_event(outcome(world))]
    assert [(order.order, order.task_id) for order in orders(world)] == [(Order.CANCEL, TASK_ID)]


def test_the_end_shows_at_once_and_says_nothing_of_other_events(world: StatusApiWorld) -> None:
    world.apply(make_event())
    before = world.views.seen_until()
    body = world.delete().get_json()
    assert world.json(WHOLE) == body
    assert world.views.seen_until() == before


def test_the_event_that_comes_round_changes_nothing(world: StatusApiWorld) -> None:
    world.apply(make_event())
    body = world.delete().get_json()
    position = world.views.latest()
    world.apply(*told(world), make_event(EventType.STARTED))
    assert world.json(WHOLE)["state"] == body["state"]
    assert world.views.latest() == position


def test_a_second_time_is_answered_alike_and_does_nothing(world: StatusApiWorld) -> None:
    world.apply(make_event())
    first, second = world.delete(), world.delete()
    assert (second.status_code, second.get_json()) == (202, first.get_json())
    assert (len(told(world)), len(orders(world))) == (1, 1)


@pytest.mark.parametrize("state", [TaskState.SUCCEEDED, TaskState.FAILED, TaskState.EXPIRED])
def test_a_task_with_another_end_is_refused_with_its_state(world: StatusApiWorld, state: TaskState) -> None:
    world.apply(ended_event(make_outcome(state=state)))
    body = assert_problem(world.delete(), 409, "task_ended")
    assert body["state"] == state
    assert (told(world), orders(world)) == ([], [])


def test_who_loses_the_race_tells_and_shows_the_winners_end(world: StatusApiWorld) -> None:
    world.apply(make_event())
    world.records.commit(make_outcome())
    assert assert_problem(world.delete(), 409, "task_ended")["state"] == "succeeded"
    assert world.json(WHOLE)["state"] == "succeeded"
    assert [event.type for event in told(world)] == [EventType.SUCCEEDED]
    assert orders(world) == []


@pytest.mark.parametrize("path", [WHOLE, UNKNOWN, "/api/v1/tasks/x"])
def test_what_cannot_be_seen_cannot_be_cancelled(world: StatusApiWorld, path: str) -> None:
    world.apply(make_event())
    world.views.apply_events([], seen_until=world.now)
    assert_problem(world.delete(path, Authorization=f"Bearer {world.other_key}"), 404, "task_not_found")
    assert world.records.outcome(TASK_ID) is None


def test_without_a_key_nothing_is_cancelled(world: StatusApiWorld) -> None:
    world.apply(make_event())
    assert_problem(world.client.delete(WHOLE), 401, "unauthorized")
    assert world.records.outcome(TASK_ID) is None


def test_who_knows_the_id_of_an_anonymous_task_may_cancel_it(tmp_path: Path) -> None:
    world = StatusApiWorld(load_plans(plans_with_anonymous(tmp_path)))
    world.apply(make_event(task=make_task(tenant_id=f"{ANONYMOUS_PREFIX}0123456789abcdef")))
    assert world.client.delete(WHOLE).status_code == 202
    assert outcome(world).state is TaskState.CANCELLED


def test_while_the_broker_is_away_the_task_ends_all_the_same(world: StatusApiWorld) -> None:
    world.apply(make_event())
    world.broker.available = False
    assert world.delete().status_code == 202
    assert outcome(world).state is TaskState.CANCELLED
    assert world.json(WHOLE)["state"] == "cancelled"


def test_while_the_bucket_is_away_nothing_is_promised(world: StatusApiWorld) -> None:
    world.apply(make_event())
    world.objects.available = False
    assert_problem(world.delete(), 503, "storage_error")
    assert world.json(WHOLE)["state"] == "queued"
    assert (told(world), orders(world)) == ([], [])


def test_a_view_that_cannot_be_written_does_not_undo_the_end(
    world: StatusApiWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.apply(make_event())

    def publish_and_lose_the_database(*_messages: OutboundMessage, timeout: float) -> None:
        world.views.available = timeout < 0

    monkeypatch.setattr(world.broker, "publish", publish_and_lose_the_database)
    response = world.delete()
    assert (response.status_code, response.get_json()["state"]) == (202, "cancelled")


def test_a_task_of_which_only_its_progress_is_known_is_asked_for_again(world: StatusApiWorld) -> None:
    world.apply(make_event(EventType.PROGRESS))
    assert_problem(world.delete(), 503, "status_lagging")


@pytest.mark.parametrize("key", [outcome_key(TASK_ID), claim_key(TASK_ID, 1)])
def test_what_cannot_be_read_in_the_bucket_is_the_stores_fault(world: StatusApiWorld, key: str) -> None:
    world.apply(make_event())
    world.objects.put(key, b"garbage", media_type=JSON)
    assert_problem(world.delete(), 503, "storage_error")


def test_the_end_of_a_running_task_says_since_when_it_ran(world: StatusApiWorld) -> None:
    world.apply(make_event())
    world.records.claim(make_claim(at=NOW + timedelta(seconds=2)))
    world.delete()
    assert outcome(world).started_at == NOW + timedelta(seconds=2)


def test_an_expiry_mark_is_no_start(world: StatusApiWorld) -> None:
    world.apply(make_event())
    world.records.claim(make_claim(mark=ClaimMark.EXPIRED))
    world.delete()
    assert outcome(world).started_at is None


def test_a_later_attempt_is_ended_as_such(world: StatusApiWorld) -> None:
    following = make_task(attempt=2)
    error = ErrorInfo(code="backend_error", message="the model raised")
    world.apply(make_event(), retrying_event(following, error, delay_seconds=5, at=NOW))
    assert world.delete().get_json()["attempt"] == 2
    assert outcome(world).task == following


def test_the_store_is_proved_before_the_first_end_and_once(world: StatusApiWorld) -> None:
    world.apply(make_event())
    world.delete(UNKNOWN)
    assert world.proofs == 0
    world.delete()
    world.apply(make_event(task=make_task(task_id=UNKNOWN.rpartition("/")[2])))
    world.delete(UNKNOWN)
    assert world.proofs == 1
