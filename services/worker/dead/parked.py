"""A message of ``tasks.dead``, read as far as it can be, and which of them an operator means."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from shared.contracts.base import decode
from shared.contracts.dead import DeadLetter, Origin
from shared.contracts.task import TaskMessage
from shared.domain.errors import DecodeError
from shared.messaging import messages

if TYPE_CHECKING:
    from datetime import datetime

    from shared.contracts.dead import DeadAttempt
    from shared.contracts.outcome import ErrorInfo
    from shared.messaging.ports import Delivery


class Form(StrEnum):
    """How a message lay in the queue."""

    LETTER = "letter"
    LEGACY = "legacy"  # a bare body with headers, as the first version parked it; when is not known
    UNREADABLE = "unreadable"  # a letter that a newer version wrote, or a broken one


@dataclass(frozen=True, slots=True, kw_only=True)
class Parked:
    """One parked message. ``task`` or ``body`` is there."""

    delivery: Delivery
    form: Form
    reason: str
    detail: str
    task: TaskMessage | None = None
    body: bytes | None = None
    origin: Origin | None = None
    parked_at: datetime | None = None
    parked_by: str | None = None
    attempts: tuple[DeadAttempt, ...] = ()
    last_error: ErrorInfo | None = None
    stack: str | None = None

    @property
    def ident(self) -> str:
        """What operators name it by: the task's id, else the message's, else one made from its bytes."""
        if self.task is not None:
            return self.task.task_id
        return self.delivery.message_id or f"raw-{hashlib.sha256(self.body or b'').hexdigest()[:16]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which parked messages are meant: those for which all that is given holds. Times compare with ``parked_at``.

    What is not known of a message matches nothing that is asked of it.
    """

    ident: str | None = None
    model: str | None = None
    tenant: str | None = None
    reason: str | None = None
    before: datetime | None = None
    after: datetime | None = None

    def matches(self, parked: Parked) -> bool:
        """Whether this one is meant."""
        task, at = parked.task, parked.parked_at
        return (
            self.ident in {None, parked.ident}
            and self.reason in {None, parked.reason}
            and self.model in {None, task.model if task is not None else None}
            and self.tenant in {None, task.tenant_id if task is not None else None}
            and (self.before is None or (at is not None and at < self.before))
            and (self.after is None or (at is not None and at > self.after))
        )


def read(delivery: Delivery) -> Parked:
    """Read a message of ``tasks.dead``, whatever it is."""
    if delivery.type != messages.DEAD_TYPE:
        return _legacy(delivery)
    try:
        letter = decode(DeadLetter, delivery.body)
    except DecodeError as exc:
        return Parked(
            delivery=delivery,
            form=Form.UNREADABLE,
            reason=_header(delivery, messages.HEADER_REASON) or exc.code,
            detail=exc.message,
            body=delivery.body,
        )
    return Parked(
        delivery=delivery,
        form=Form.LETTER,
        reason=letter.reason,
        detail=letter.detail,
        task=letter.task,
        body=letter.body,
        origin=letter.origin,
        parked_at=letter.parked_at,
        parked_by=letter.parked_by,
        attempts=letter.attempts,
        last_error=letter.last_error,
        stack=letter.stack,
    )


def _legacy(delivery: Delivery) -> Parked:
    exchange = _header(delivery, messages.HEADER_EXCHANGE)
    origin = None
    if exchange:
        key = _header(delivery, messages.HEADER_ROUTING_KEY)
        origin = Origin(exchange=exchange, routing_key=key, message_id=delivery.message_id)
    try:
        task, body = decode(TaskMessage, delivery.body), None
    except DecodeError:
        task, body = None, delivery.body
    return Parked(
        delivery=delivery,
        form=Form.LEGACY,
        reason=_header(delivery, messages.HEADER_REASON),
        detail=_header(delivery, messages.HEADER_DETAIL),
        task=task,
        body=body,
        origin=origin,
    )


def _header(delivery: Delivery, name: str) -> str:
    return str(delivery.headers.get(name) or "")
