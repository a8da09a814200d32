"""The fault matrix, third part: strange, late and doubled messages, a broker that goes away, deadlines, cancels."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest

from shared.clock import utc_now
from shared.contracts.base import encode
from shared.contracts.control import Order
from shared.domain.task import EventType, TaskState
from shared.messaging import messages
from shared.messaging.topology import STATUS_RETURNED, TASKS, retry_queue, work_queue
from tests.support.builders import MODEL, make_outcome, make_task, outbound
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.support.matrix import FaultSite

WORK: Final = work_queue(MODEL)
HEARTBEAT_SECONDS: Final = 5
HELD_SECONDS: Final = 30


def start(site: FaultSite, name: str = "worker-1", **settings: str) -> None:
    models = site.folder / "models"
    site.start(name, MODELS_DIR=str(models if models.exists() else site.card()), **settings)


@pytest.mark.parametrize("body", [b"\xff\x00", b"{}", b'{"schema": 1, "task_id": "../../etc"}'])
def test_a_message_that_cannot_be_read_is_returned_once_and_the_worker_goes_on(
    fault_bench: FaultSite, body: bytes
) -> None:
    start(fault_bench)
    fault_bench.publisher.publish(outbound(TASKS, MODEL, body, message_id="m-1"), timeout=10)
    fault_bench.await_line("delivery_undecodable")
    _, found = fault_bench.take(STATUS_RETURNED)
    assert found == body
    fault_bench.assert_well()
    assert len(fault_bench.lines("delivery_undecodable")) == 1


def test_a_message_of_a_newer_version_waits_for_a_newer_worker_and_loses_nothing(fault_bench: FaultSite) -> None:
    start(fault_bench)
    fields: dict[str, Any] = json.loads(encode(make_task()))
    body = json.dumps({**fields, "schema": 99, "params": {"new": "form"}, "priority": 7}).encode()
    fault_bench.publisher.publish(outbound(TASKS, MODEL, body, message_id="m-1", priority=7), timeout=10)
    properties, found = fault_bench.take(retry_queue(30))
    assert (found, properties.priority) == (body, 7)
    assert not list(fault_bench.store.keys("tasks/"))
    fault_bench.assert_well()


def test_a_message_twice_to_two_workers_at_once_is_computed_once(fault_bench: FaultSite) -> None:
    for name in ("worker-1", "worker-2"):
        start(fault_bench, name)
        fault_bench.await_line("model_loaded", name)
    task = fault_bench.order("wait_for_go")
    fault_bench.send(task)
    waits = fault_bench.waiting(task, 30)
    assert waits.task == task
    started = [name for name in ("worker-1", "worker-2") if fault_bench.lines("task_started", name)]
    assert len(started) == 1
    fault_bench.go(task)
    outcome = fault_bench.outcome(task)
    assert (outcome.state, outcome.attempt, outcome.worker) == (TaskState.SUCCEEDED, 1, started[0])
    # Its copy comes back in its time, and finds the end.
    fault_bench.send(waits.task)
    fault_bench.await_rest()
    assert fault_bench.attempts(task) == ["claim-1.json"]
    fault_bench.assert_well()


def test_a_task_that_has_ended_before_it_comes_is_told_again_and_not_computed(fault_bench: FaultSite) -> None:
    task = make_task(submitted_at=utc_now())
    outcome = fault_bench.records.commit(make_outcome(task=task))
    start(fault_bench)
    fault_bench.send(task)
    fault_bench.await_line("task_settled")
    assert not fault_bench.lines("task_started")
    assert [event.data.outcome for event in fault_bench.events()] == [outcome]
    fault_bench.assert_well()


def test_of_two_ends_the_first_stands_and_the_losers_files_go(fault_bench: FaultSite) -> None:
    start(fault_bench)
    task = fault_bench.order("encode_slowly")
    until(lambda: fault_bench.lines("task_started"), 30, "the start")
    winner = make_outcome(task=task, state=TaskState.FAILED, execution="another", ended_at=utc_now())
    fault_bench.records.commit(winner)
    fault_bench.go(task)
    assert fault_bench.await_line("outcome_lost")["winner"] == "another"
    fault_bench.await_rest()
    assert fault_bench.records.outcome(task.task_id) == winner
    assert fault_bench.artifacts(task) == []
    ends = [event for event in fault_bench.events() if event.data.outcome is not None]
    assert [event.data.outcome for event in ends] == [winner]
    fault_bench.assert_well()


def test_a_broker_that_restarts_while_a_task_runs_burns_no_attempt(fault_bench: FaultSite) -> None:
    start(fault_bench)
    task = fault_bench.order("wait_for_go", max_attempts=1)
    fault_bench.await_line("task_started")
    fault_bench.rabbit.restart()
    fault_bench.go(task)
    outcome = fault_bench.outcome(task)
    assert (outcome.state, outcome.attempt) == (TaskState.SUCCEEDED, 1)
    # The broker gives the message again, and it finds the end, or its own execution at it.
    fault_bench.await_line("settle_stale")
    fault_bench.await_line("delivery_taken", count=2)
    fault_bench.await_rest()
    assert len(fault_bench.lines("task_started")) == 1
    fault_bench.assert_well()


def test_a_broker_that_is_away_when_a_task_ends_costs_its_news_nothing_but_time(fault_bench: FaultSite) -> None:
    start(fault_bench)
    task = fault_bench.order("wait_for_go", max_attempts=1)
    fault_bench.await_line("task_started")
    fault_bench.rabbit.kill()
    try:
        fault_bench.go(task)
        assert fault_bench.outcome(task).attempt == 1
        fault_bench.await_line("finish_failed")
    finally:
        fault_bench.rabbit.start()
    fault_bench.await_line("task_settled")
    fault_bench.await_rest()
    assert EventType.SUCCEEDED in {event.type for event in fault_bench.events()}
    assert len(fault_bench.lines("task_started")) == 1
    fault_bench.assert_well()


def test_heartbeats_hold_while_the_child_lets_no_other_thread_run(fault_bench: FaultSite) -> None:
    """Six heartbeats long; the broker gives up a connection that misses two."""
    start(fault_bench, AMQP_URL=fault_bench.rabbit.url("worker", heartbeat=HEARTBEAT_SECONDS))
    task = fault_bench.order("hold_the_lock", steps=HELD_SECONDS, max_attempts=1)
    outcome = fault_bench.outcome(task, 2 * HELD_SECONDS)
    assert (outcome.state, outcome.attempt) == (TaskState.SUCCEEDED, 1)
    fault_bench.assert_well()
    assert not fault_bench.lines("amqp_connection_lost")
    assert not fault_bench.lines("settle_stale")
    assert [line["redelivered"] for line in fault_bench.lines("delivery_taken")] == [False, False]


def test_a_task_that_comes_too_late_expires_and_is_not_computed(fault_bench: FaultSite) -> None:
    start(fault_bench)
    task = fault_bench.order(start_deadline=utc_now() - timedelta(seconds=1))
    outcome = fault_bench.outcome(task)
    assert (outcome.state, outcome.attempt) == (TaskState.EXPIRED, 1)
    assert not fault_bench.lines("task_started")
    fault_bench.assert_well()


def test_a_task_that_passes_its_finish_deadline_is_stopped_and_not_tried_again(fault_bench: FaultSite) -> None:
    start(fault_bench)
    fault_bench.await_line("model_loaded")
    task = fault_bench.order("hang", finish_deadline=utc_now() + timedelta(seconds=2))
    assert fault_bench.failed(task) == ("deadline_exceeded", 1)
    fault_bench.assert_well()


def test_an_attempt_that_could_not_end_in_time_is_not_begun(fault_bench: FaultSite) -> None:
    start(fault_bench)
    task = make_task(attempt=2, submitted_at=utc_now(), finish_deadline=utc_now() - timedelta(seconds=1))
    fault_bench.publisher.publish(messages.new_task(task, task.submitted_at - timedelta(minutes=1)), timeout=10)
    assert fault_bench.failed(task) == ("deadline_exceeded", 2)
    assert fault_bench.attempts(task) == []
    fault_bench.assert_well()


def test_a_cancelled_task_that_does_not_listen_ends_with_its_child(fault_bench: FaultSite) -> None:
    start(fault_bench)
    child = fault_bench.assert_well().receipt["pid"]
    task = fault_bench.order("hang_deaf")
    fault_bench.await_line("task_started", count=2)
    outcome = make_outcome(task=task, state=TaskState.CANCELLED, execution="status", ended_at=utc_now())
    fault_bench.records.commit(outcome)
    fault_bench.tell(Order.CANCEL, task_id=task.task_id)
    fault_bench.await_line("runner_unresponsive")
    assert fault_bench.assert_well().receipt["pid"] != child
    assert fault_bench.records.outcome(task.task_id) == outcome
    assert fault_bench.depths() == {}
