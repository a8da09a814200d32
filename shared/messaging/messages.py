"""Contracts as broker messages: which exchange, key, priority, bound in time and headers each kind has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shared.contracts.base import encode
from shared.contracts.event import SEQUENCE_QUEUED, encode_queued_event, event_id
from shared.domain.task import EventType
from shared.messaging.ports import OutboundMessage
from shared.messaging.topology import CONTROL, DEAD, EVENTS, REQUEUE, TASKS, WORKERS, retry_exchange

if TYPE_CHECKING:
    from datetime import datetime

    from shared.contracts.control import ControlMessage
    from shared.contracts.dead import DeadLetter
    from shared.contracts.event import TaskEvent
    from shared.contracts.task import TaskMessage
    from shared.contracts.worker_report import WorkerReport
    from shared.messaging.ports import Delivery

TASK_TYPE: Final = "task"
EVENT_TYPE: Final = "event"
# "dead" was the type of those that held the bare body, which may lie in the queue still.
DEAD_TYPE: Final = "dead-letter"
REPORT_TYPE: Final = "worker-report"
CONTROL_TYPE: Final = "control"

HEADER_REASON: Final = "x-atelier-reason"
HEADER_DETAIL: Final = "x-atelier-detail"
HEADER_TENANT: Final = "x-atelier-tenant"
HEADER_MODEL: Final = "x-atelier-model"
HEADER_EXCHANGE: Final = "x-atelier-exchange"
HEADER_ROUTING_KEY: Final = "x-atelier-routing-key"


def new_task(task: TaskMessage, now: datetime) -> OutboundMessage:
    """A task for its work queue, from the gateway."""
    return _task(task, TASKS, now)


def next_attempt(task: TaskMessage, now: datetime) -> OutboundMessage:
    """A task that goes back to its work queue at once."""
    return _task(task, REQUEUE, now)


def delayed_attempt(task: TaskMessage, seconds: int, now: datetime) -> OutboundMessage:
    """A task that goes back to its work queue after so many seconds (one of the retry queues')."""
    return _task(task, retry_exchange(seconds), now)


def delayed_copy(delivery: Delivery, seconds: int) -> OutboundMessage:
    """A message as it came, back after so many seconds; for copies, and for schemas that cannot be read yet."""
    headers = {key: value for key, value in delivery.headers.items() if isinstance(value, str | int)}
    return OutboundMessage(
        exchange=retry_exchange(seconds),
        routing_key=delivery.routing_key,
        body=delivery.body,
        message_id=delivery.message_id or "",
        type=TASK_TYPE,
        priority=delivery.priority,
        headers=headers,
    )


def submit(task: TaskMessage, now: datetime) -> tuple[OutboundMessage, OutboundMessage]:
    """A task for its work queue, and the event that says so."""
    work = new_task(task, now)
    news = OutboundMessage(
        exchange=EVENTS,
        routing_key=f"{EventType.QUEUED}.{task.tenant_id}",
        body=encode_queued_event(task, work.body),
        message_id=event_id(task.task_id, EventType.QUEUED, task.attempt, SEQUENCE_QUEUED),
        type=EVENT_TYPE,
    )
    return work, news


def event(task_event: TaskEvent) -> OutboundMessage:
    """An event for everybody who listens."""
    return OutboundMessage(
        exchange=EVENTS,
        routing_key=task_event.routing_key,
        body=encode(task_event),
        message_id=task_event.event_id,
        type=EVENT_TYPE,
    )


def order(control: ControlMessage) -> OutboundMessage:
    """An order for every worker that listens: perhaps none, and those that miss it look at the bucket."""
    return OutboundMessage(
        exchange=CONTROL,
        routing_key="",
        body=encode(control),
        message_id=f"{control.order}:{control.task_id or control.worker or ''}",
        type=CONTROL_TYPE,
        mandatory=False,
    )


def worker_report(report: WorkerReport) -> OutboundMessage:
    """A worker's word about itself, for whoever listens: perhaps nobody."""
    return OutboundMessage(
        exchange=WORKERS,
        routing_key=report.routing_key,
        body=encode(report),
        message_id=f"{report.routing_key}:{report.at.isoformat()}",
        type=REPORT_TYPE,
        mandatory=False,
    )


def dead(letter: DeadLetter) -> OutboundMessage:
    """Work that is given up, for operators. The headers repeat what a broker's own tools are to show."""
    headers: dict[str, str | int] = {HEADER_REASON: letter.reason, HEADER_DETAIL: letter.detail}
    if letter.task is not None:
        headers |= {HEADER_TENANT: letter.task.tenant_id, HEADER_MODEL: letter.task.model}
    if letter.origin is not None:
        headers |= {HEADER_EXCHANGE: letter.origin.exchange, HEADER_ROUTING_KEY: letter.origin.routing_key}
    return OutboundMessage(
        exchange=DEAD,
        routing_key=letter.reason,
        body=encode(letter),
        message_id=letter.message_id,
        type=DEAD_TYPE,
        headers=headers,
    )


def _task(task: TaskMessage, exchange: str, now: datetime) -> OutboundMessage:
    # The broker's own bound in time. It is lost with the first dead-lettering and never the only one.
    remaining_ms = max(1, int((task.finish_deadline - now).total_seconds() * 1000))
    return OutboundMessage(
        exchange=exchange,
        routing_key=task.model,
        body=encode(task),
        message_id=task.task_id,
        type=TASK_TYPE,
        priority=task.priority,
        expiration_ms=remaining_ms,
        headers=_task_headers(task),
    )


def _task_headers(task: TaskMessage) -> dict[str, str | int]:
    headers: dict[str, str | int] = {"x-atelier-attempt": task.attempt}
    if task.traceparent is not None:
        headers["traceparent"] = task.traceparent
    if task.request_id is not None:
        headers["x-request-id"] = task.request_id
    return headers
