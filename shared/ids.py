"""Identifiers: UUIDv7 task ids (RFC 9562, ordered by time) and W3C trace contexts."""

from __future__ import annotations

import hashlib
import re
import secrets
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import uuid_utils

REQUEST_ID: Final = re.compile(r"^[A-Za-z0-9._-]{8,64}$")
TRACEPARENT: Final = re.compile(r"^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$")
_UUID7: Final = re.compile(r"^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$")

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
_VERSION: Final = 0x7 << 76
_VARIANT: Final = 0b10 << 62
# The bits of version and variant, and those above them, which hold the time.
_RANDOM: Final = (1 << 80) - 1 & ~(0xF << 76) & ~(0b11 << 62)


def new_task_id() -> str:
    """A new UUIDv7 in its canonical text form."""
    return str(uuid_utils.uuid7())


def is_task_id(text: str) -> bool:
    """Whether the text is a canonical UUIDv7."""
    return _UUID7.fullmatch(text) is not None  # with match, $ would let a newline at the end pass


def task_id_seconds(task_id: str) -> float:
    """Unix time in seconds at which a task id was made (its first 48 bits are milliseconds)."""
    return (UUID(task_id).int >> 80) / 1000


def first_task_id(seconds: float) -> str:
    """The lowest task id that could be made in the millisecond of a Unix time."""
    return str(UUID(int=(round(seconds * 1000) << 80) | (7 << 76) | (2 << 62)))


def retried_id(task_id: str, ended_at: datetime) -> str:
    """The id of the retry of a task that ended then: a UUIDv7 (RFC 9562, section 5.7), the same however often one asks.

    Its 48 bits of time are milliseconds of ``ended_at``, so that it sorts behind the old task; its 74 random bits are
    from a SHA-256 of the old id.
    """
    milliseconds = (ended_at - _EPOCH) // _MILLISECOND
    digest = int.from_bytes(hashlib.sha256(task_id.encode()).digest()[:10], "big")
    return str(UUID(int=milliseconds << 80 | _VERSION | _VARIANT | digest & _RANDOM))


def new_execution_id() -> str:
    """A random id for one execution of one attempt."""
    return secrets.token_hex(8)


def new_request_id() -> str:
    """A random request id, as Nginx makes it."""
    return secrets.token_hex(16)


def new_traceparent() -> str:
    """A fresh W3C trace context (https://www.w3.org/TR/trace-context/), sampled."""
    both = secrets.token_hex(24)
    return f"00-{both[:32]}-{both[32:]}-01"


def trace_id_of(traceparent: str) -> str:
    """The trace id within a well-formed traceparent."""
    return traceparent[3:35]
