"""The outbox of callbacks in memory, under the same contract tests as the database; for unit tests and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from services.status.webhooks.deliveries import GIVE_UP_AFTER, Delivery, DeliveryState, Line
from shared.clock import utc_now

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from services.status.store.memory import MemoryTaskViewStore
    from services.status.webhooks.ports import Hold


class MemoryDeliveryStore:
    """A DeliveryStore of what a MemoryTaskViewStore owes. It fails like a broken database while that one does."""

    def __init__(self, views: MemoryTaskViewStore) -> None:
        self._views = views
        self._deliveries: dict[str, Delivery] = {}
        self._holders: dict[str, str] = {}
        self._disabled: set[tuple[str, str]] = set()

    def lines(self, after: str, limit: int) -> Sequence[Line]:
        """See DeliveryStore."""
        due: dict[str, datetime] = {}
        for delivery in self._pending():
            due[delivery.line] = min(due.get(delivery.line, delivery.due_at), delivery.due_at)
        return [Line(name, due[name]) for name in sorted(due) if name > after][:limit]

    def take(self, wanted: Mapping[str, int], hold: Hold) -> Sequence[Delivery]:
        """See DeliveryStore."""
        taken: list[Delivery] = []
        pending = sorted(self._pending(), key=lambda each: (each.due_at, each.notice.webhook_id))
        for line, count in wanted.items():
            taken += [each for each in pending if each.line == line and each.due_at <= hold.now][:count]
        taken = [replace(each, due_at=hold.until) for each in taken]
        for each in taken:
            self._deliveries[each.notice.webhook_id] = each
            self._holders[each.notice.webhook_id] = hold.holder
        return taken

    def settle(self, delivery: Delivery, holder: str, *, disable: bool = False) -> bool:
        """See DeliveryStore."""
        webhook_id = delivery.notice.webhook_id
        known = self._all().get(webhook_id)
        if known is None or known.state is not DeliveryState.PENDING or self._holders.get(webhook_id) != holder:
            return False
        self._deliveries[webhook_id] = delivery
        del self._holders[webhook_id]
        if disable:
            self._disabled.add((delivery.notice.tenant_id, delivery.notice.url))
        return True

    def is_disabled(self, tenant_id: str, url: str) -> bool:
        """See DeliveryStore."""
        self._views.check()
        return (tenant_id, url) in self._disabled

    def give_up_old(self, now: datetime, limit: int) -> int:
        """See DeliveryStore."""
        old = [each for each in self._pending() if each.until <= now and not self._in_hand(each, now)][:limit]
        for each in old:
            self._holders.pop(each.notice.webhook_id, None)
            self._deliveries[each.notice.webhook_id] = replace(
                each, state=DeliveryState.GIVEN_UP, due_at=now, until=now
            )
        return len(old)

    def of_task(self, task_id: str, tenant_id: str) -> Sequence[Delivery]:
        """See DeliveryStore."""
        found = [each for each in self._of_tenant(tenant_id) if each.notice.task_id == task_id]
        return sorted(found, key=lambda each: (each.notice.created_at, each.notice.webhook_id))

    def listed(self, tenant_id: str, state: DeliveryState | None, before: str | None, limit: int) -> Sequence[Delivery]:
        """See DeliveryStore."""
        found = [
            each
            for each in self._of_tenant(tenant_id)
            if state in (None, each.state) and (before is None or each.notice.webhook_id < before)
        ]
        return sorted(found, key=lambda each: each.notice.webhook_id, reverse=True)[:limit]

    def replay(self, webhook_id: str, tenant_id: str, now: datetime) -> Delivery | None:
        """See DeliveryStore."""
        found = [each for each in self._of_tenant(tenant_id) if each.notice.webhook_id == webhook_id]
        if not found:
            return None
        [delivery] = found
        self._disabled.discard((tenant_id, delivery.notice.url))
        if delivery.state is DeliveryState.PENDING and self._in_hand(delivery, now):
            return delivery
        self._holders.pop(webhook_id, None)
        again = replace(delivery, state=DeliveryState.PENDING, tries=0, due_at=now, until=now + GIVE_UP_AFTER)
        self._deliveries[webhook_id] = again
        return again

    def check(self) -> None:
        """See DeliveryStore."""
        self._views.check()

    def _in_hand(self, delivery: Delivery, now: datetime) -> bool:
        return delivery.notice.webhook_id in self._holders and delivery.due_at > now

    def _pending(self) -> list[Delivery]:
        return [each for each in self._all().values() if each.state is DeliveryState.PENDING]

    def _of_tenant(self, tenant_id: str) -> list[Delivery]:
        return [each for each in self._all().values() if each.notice.tenant_id == tenant_id]

    def _all(self) -> dict[str, Delivery]:
        self._views.check()
        for webhook_id, notice in self._views.owed.items():
            if webhook_id not in self._deliveries:
                self._deliveries[webhook_id] = Delivery(
                    notice=notice,
                    state=DeliveryState.PENDING,
                    tries=0,
                    due_at=min(notice.created_at, utc_now()),
                    until=utc_now() + GIVE_UP_AFTER,
                    attempts=(),
                )
        return self._deliveries
