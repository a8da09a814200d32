"""What the sender and the API ask of the outbox. Adapters: deliveries_sql and deliveries_memory, in the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from services.status.webhooks.deliveries import Delivery, DeliveryState, Line


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Who takes deliveries, when, and until when nobody else may take them."""

    holder: str
    now: datetime
    until: datetime


class DeliveryStore(Protocol):
    """Deliveries. Whatever is asked for by an id is None where the tenant has none of it.

    Methods raise ViewStoreError when the database cannot be used.
    """

    def lines(self, after: str, limit: int) -> Sequence[Line]:
        """The lines that have pending deliveries, by name, from the first behind ``after`` on."""
        ...

    def take(self, wanted: Mapping[str, int], hold: Hold) -> Sequence[Delivery]:
        """Up to so many due deliveries of each line, the longest due first. Nobody else gets the same meanwhile."""
        ...

    def settle(self, delivery: Delivery, holder: str, *, disable: bool = False) -> bool:
        """Keep what came of one that the holder took; false, and nothing is kept, where it is no longer the holder's.

        With ``disable`` the tenant's later ones to the same URL are not to be made, either.
        """
        ...

    def is_disabled(self, tenant_id: str, url: str) -> bool:
        """Whether a tenant's callbacks to a URL are not wanted any more."""
        ...

    def give_up_old(self, now: datetime, limit: int) -> int:
        """Give up pending deliveries whose time is over. Returns how many."""
        ...

    def of_task(self, task_id: str, tenant_id: str) -> Sequence[Delivery]:
        """A task's deliveries, the oldest first."""
        ...

    def listed(self, tenant_id: str, state: DeliveryState | None, before: str | None, limit: int) -> Sequence[Delivery]:
        """A tenant's deliveries by falling id, of those whose id is below ``before`` where that is given."""
        ...

    def replay(self, webhook_id: str, tenant_id: str, now: datetime) -> Delivery | None:
        """Make a delivery due with all its tries before it, and its URL wanted. One that is in hand stays as it is."""
        ...

    def check(self) -> None:
        """Prove that the database can be written."""
        ...
