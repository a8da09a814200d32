"""Callbacks that are owed, as the store keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from shared.contracts.base import Contract, Timestamp

if TYPE_CHECKING:
    from datetime import datetime

    from services.status.webhooks.notices import Notice

# A callback that was not made by then is given up, whatever kept it; the tries of docs/webhooks.md take a day.
GIVE_UP_AFTER: Final = timedelta(hours=36)
_LONGEST_HOST: Final = 255


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
    """One callback and what has come of it.

    ``tries`` counts since it was last asked for, ``attempts`` are the last few of all. A pending one is given up at
    ``until``, another one ended then.
    """

    notice: Notice
    state: DeliveryState
    tries: int
    due_at: datetime
    until: datetime
    attempts: tuple[DeliveryAttempt, ...]

    @property
    def line(self) -> str:
        """The line that it waits in."""
        return line_of(self.notice.tenant_id, self.notice.url)

    @property
    def host(self) -> str:
        """Where it goes."""
        return host_of(self.line)


@dataclass(frozen=True, slots=True)
class Line:
    """Pending callbacks of one tenant to one host; the first is due at ``first_due``, or in hand until then."""

    name: str
    first_due: datetime

    @property
    def tenant_id(self) -> str:
        """Whose they are."""
        return tenant_of(self.name)

    @property
    def host(self) -> str:
        """Where they go."""
        return host_of(self.name)


def line_of(tenant_id: str, url: str) -> str:
    """The line that a tenant's callbacks to a URL wait in: what one of them suffers holds up no other line."""
    return f"{tenant_id} {(urlsplit(url).hostname or '')[:_LONGEST_HOST]}"


def tenant_of(line: str) -> str:
    """Whose line it is."""
    return line.partition(" ")[0]


def host_of(line: str) -> str:
    """Where a line leads."""
    return line.partition(" ")[2]
