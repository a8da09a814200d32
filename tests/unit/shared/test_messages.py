from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from shared.contracts.base import decode
from shared.contracts.dead import DeadLetter, Origin, letter_of_body, letter_of_task
from shared.contracts.event import TaskEvent
from shared.contracts.outcome import ErrorInfo
from shared.contracts.task import TaskMessage
from shared.domain.task import EventType
from shared.messaging import messages
from shared.messaging.ports import Delivery
from shared.messaging.topology import DEAD, EVENTS, REQUEUE, TASKS, retry_exchange
from tests.support.builders import MODEL, NOW, TASK_ID, TENANT, TRACEPARENT, WORKER, make_event, make_task

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.messaging.ports import OutboundMessage

WAYS: dict[str, Callable[[TaskMessage], OutboundMessage]] = {
    TASKS: lambda task: messages.new_task(task, NOW),
    REQUEUE: lambda task: messages.next_attempt(task, NOW),
    retry_exchange(30): lambda task: messages.delayed_attempt(task, 30, NOW),
}


@pytest.mark.parametrize("exchange", list(WAYS))
def test_a_task_goes_to_its_model_with_its_priority_and_trace(exchange: str) -> None:
    task = make_task(attempt=2, priority=7)
    message = WAYS[exchange](task)
    assert (message.exchange, message.routing_key, message.priority) == (exchange, MODEL, 7)
    assert (message.message_id, message.type, message.mandatory) == (TASK_ID, messages.TASK_TYPE, True)
    assert message.headers == {"x-atelier-attempt": 2, "traceparent": TRACEPARENT, "x-request-id": "request-0001"}
    assert decode(TaskMessage, message.body) == task


@pytest.mark.parametrize(("left", "milliseconds"), [(90.5, 90_500), (0.0004, 1), (0, 1), (-5, 1)])
def test_the_broker_keeps_a_task_until_its_finish_deadline_and_never_for_no_time(
    left: float, milliseconds: int
) -> None:
    task = make_task(finish_deadline=NOW + timedelta(seconds=left))
    assert messages.new_task(task, NOW).expiration_ms == milliseconds


def test_a_task_without_trace_has_no_empty_headers() -> None:
    message = messages.new_task(make_task(traceparent=None, request_id=None), NOW)
    assert message.headers == {"x-atelier-attempt": 1}


def test_a_copy_goes_back_as_it_came_and_without_the_brokers_own_headers() -> None:
    delivery = Delivery(
        body=b"unreadable yet",
        exchange=TASKS,
        routing_key=MODEL,
        redelivered=True,
        headers={"x-atelier-attempt": 3, "traceparent": TRACEPARENT, "x-death": [{"count": 1}]},
        message_id=TASK_ID,
        type=messages.TASK_TYPE,
        priority=8,
        tag=1,
        epoch=1,
    )
    copy = messages.delayed_copy(delivery, 30)
    assert (copy.exchange, copy.routing_key, copy.body) == (retry_exchange(30), MODEL, b"unreadable yet")
    assert (copy.message_id, copy.priority, copy.expiration_ms) == (TASK_ID, 8, None)
    assert copy.headers == {"x-atelier-attempt": 3, "traceparent": TRACEPARENT}


def test_an_event_goes_to_whoever_listens_under_its_own_id() -> None:
    event = make_event(EventType.STARTED)
    message = messages.event(event)
    assert (message.exchange, message.routing_key) == (EVENTS, f"started.{TENANT}")
    assert (message.message_id, message.type) == (event.event_id, messages.EVENT_TYPE)
    assert decode(TaskEvent, message.body) == event


def test_a_parked_task_says_why_whose_it_was_and_for_which_model() -> None:
    task = make_task(attempt=3)
    error = ErrorInfo(code="attempts_exhausted", message="x" * 10_000)
    letter = letter_of_task(task, error, attempts=(), parked=(WORKER, NOW), stack="y" * 20_000 + "the end")
    message = messages.dead(letter)
    assert (message.exchange, message.routing_key, message.type) == (DEAD, "attempts_exhausted", messages.DEAD_TYPE)
    assert message.message_id == TASK_ID
    assert decode(DeadLetter, message.body) == letter
    assert letter.task == task
    assert letter.last_error == ErrorInfo(code="attempts_exhausted", message="x" * 2000)
    assert letter.stack is not None
    assert len(letter.stack) == 16_000
    assert letter.stack.endswith("the end")
    assert message.headers[messages.HEADER_REASON] == "attempts_exhausted"
    assert message.headers[messages.HEADER_DETAIL] == "x" * 2000
    assert (message.headers[messages.HEADER_TENANT], message.headers[messages.HEADER_MODEL]) == (TENANT, MODEL)


def test_a_parked_message_that_cannot_be_read_keeps_every_byte_and_where_it_came_from() -> None:
    origin = Origin(exchange=EVENTS, routing_key="queued.acme", message_id="m-1")
    error = ErrorInfo(code="undecodable", message="not JSON")
    letter = letter_of_body(bytes(range(256)), error, origin=origin, parked=("status-consumer", NOW))
    message = messages.dead(letter)
    assert decode(DeadLetter, message.body).body == bytes(range(256))
    assert message.message_id == "m-1"
    assert message.headers == {
        messages.HEADER_REASON: "undecodable",
        messages.HEADER_DETAIL: "not JSON",
        messages.HEADER_EXCHANGE: EVENTS,
        messages.HEADER_ROUTING_KEY: "queued.acme",
    }
