"""One try to make one callback, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from services.status.webhooks.deliveries import Delivery, DeliveryAttempt, DeliveryState
from services.status.webhooks.schedule import MOST_TRIES, next_due, retry_after_seconds
from services.status.webhooks.signing import signed_headers
from shared.auth.errors import TenantStoreError
from shared.domain.errors import OutboundError
from shared.http.outbound import OutboundRequest

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from services.status.webhooks.ports import DeliveryStore
    from services.status.webhooks.secrets import SigningSecrets
    from shared.clock import Clock
    from shared.http.outbound import Outbound, OutboundAnswer

USER_AGENT: Final = "Atelier-Webhooks/1"
NO_SECRET: Final = "no_webhook_secret"  # noqa: S105 - the name of a problem
GONE: Final = "gone"
# Nobody's fault but ours: again soon, and it counts for nothing.
_POSTPONED: Final = timedelta(seconds=30)
# What a receiver writes is not shown to anybody; so much of it is read, since many close badly when nobody reads.
_MOST_BYTES: Final = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The delivery as it is to be kept. ``disable``: its URL wants no more; ``healthy``: see Crowd.end."""

    delivery: Delivery
    disable: bool = False
    healthy: bool | None = None


class Courier:
    """Makes callbacks. Thread-safe; ``draw`` gives a number from 0 to 1."""

    def __init__(
        self,
        *,
        store: DeliveryStore,
        secrets: SigningSecrets,
        outbound: Outbound,
        clock: Clock,
        draw: Callable[[], float],
    ) -> None:
        self._store = store
        self._secrets = secrets
        self._outbound = outbound
        self._clock = clock
        self._draw = draw

    def deliver(self, delivery: Delivery) -> Result:
        """Try once. Raises ViewStoreError."""
        notice, began = delivery.notice, self._clock()
        if self._store.is_disabled(notice.tenant_id, notice.url):
            return self._disabled(delivery, DeliveryAttempt(at=began, seconds=0.0, error=GONE))
        try:
            secrets = self._secrets.of(notice.tenant_id)
        except TenantStoreError as exc:
            attempt = DeliveryAttempt(at=began, seconds=0.0, error=exc.code)
            return Result(delivery=self._noted(replace(delivery, due_at=began + _POSTPONED), attempt))
        if not secrets:
            return self._disabled(delivery, DeliveryAttempt(at=began, seconds=0.0, error=NO_SECRET))
        body = notice.body.encode()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": USER_AGENT,
            **signed_headers(notice.webhook_id, began, body, secrets),
        }
        request = OutboundRequest(method="POST", url=notice.url, headers=headers, body=body, most_bytes=_MOST_BYTES)
        try:
            answer = self._outbound.send(request)
        except OutboundError as exc:
            return self._failed(delivery, self._attempt(began, error=exc.code), healthy=False)
        return self._answered(delivery, self._attempt(began, status=answer.status), answer)

    def _answered(self, delivery: Delivery, attempt: DeliveryAttempt, answer: OutboundAnswer) -> Result:
        now = self._clock()
        if HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
            done = replace(
                delivery,
                state=DeliveryState.DELIVERED,
                tries=delivery.tries + 1,
                due_at=now,
                until=now,
            )
            return Result(delivery=self._noted(done, attempt), healthy=True)
        if answer.status == HTTPStatus.GONE:
            result = self._disabled(replace(delivery, tries=delivery.tries + 1), attempt)
            return replace(result, disable=True, healthy=True)
        # A refusal is the answer of a host that is well; too much, or broken, is not.
        healthy = answer.status != HTTPStatus.TOO_MANY_REQUESTS and answer.status < HTTPStatus.INTERNAL_SERVER_ERROR
        retry_after = retry_after_seconds(answer.headers.get("retry-after"), now)
        return self._failed(delivery, attempt, healthy=healthy, retry_after=retry_after)

    def _failed(
        self, delivery: Delivery, attempt: DeliveryAttempt, *, healthy: bool, retry_after: float | None = None
    ) -> Result:
        now, tries = self._clock(), delivery.tries + 1
        due_at = next_due(tries, now, retry_after=retry_after, draw=self._draw)
        tried = replace(delivery, tries=tries, due_at=due_at or now)
        if due_at is None or due_at >= delivery.until:
            tried = replace(tried, state=DeliveryState.GIVEN_UP, due_at=now, until=now)
        return Result(delivery=self._noted(tried, attempt), healthy=healthy)

    def _disabled(self, delivery: Delivery, attempt: DeliveryAttempt) -> Result:
        now = self._clock()
        ended = replace(delivery, state=DeliveryState.DISABLED, due_at=now, until=now)
        return Result(delivery=self._noted(ended, attempt))

    def _attempt(self, began: datetime, *, status: int | None = None, error: str | None = None) -> DeliveryAttempt:
        seconds = round((self._clock() - began).total_seconds(), 3)
        return DeliveryAttempt(at=began, seconds=seconds, status=status, error=error)

    @staticmethod
    def _noted(delivery: Delivery, attempt: DeliveryAttempt) -> Delivery:
        return replace(delivery, attempts=(*delivery.attempts, attempt)[-MOST_TRIES:])
