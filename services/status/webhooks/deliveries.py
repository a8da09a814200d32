"""Callbacks that are owed, as the store keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from shared.contracts.base import Contract, Timestamp

if TYPE_CHECKING:
    from datetime import datetime

    from services.status.webhooks.notices import Notice


class DeliveryState(StrEnum):
    """What is to become of a callback. The last three are final, until somebody asks for it again."""

    PENDING = "pending"
    DELIVERED = "delivered"
    GIVEN_UP = "given_up"
    DISABLED = "disabled"


class DeliveryAttempt(Contract):
    """One try: when it began, the seconds that it took, what was answered, or what went wrong."""

    at: Timestamp
    seconds: float
    status: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One callback and what has come of it. ``tries`` counts all, ``attempts`` are the last few."""

    notice: Notice
    state: DeliveryState
    tries: int
    due_at: datetime
    attempts: tuple[DeliveryAttempt, ...]
