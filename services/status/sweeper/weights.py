"""What share of the workers a tenant's plan gives it, as of a minute ago."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from shared.auth.errors import PlanUnavailableError, TenantStoreError
from shared.logging import get_logger

if TYPE_CHECKING:
    from datetime import datetime

    from shared.auth.plans import PlanBook
    from shared.auth.store.ports import KeyReader, Tenant
    from shared.clock import Clock

log = get_logger(__name__)

FRESH: Final = timedelta(minutes=1)


class PlanWeights:
    """Weights of plans, read at most once in a minute. While nobody can tell, the last ones count."""

    def __init__(self, reader: KeyReader, plans: PlanBook, clock: Clock) -> None:
        self._reader = reader
        self._plans = plans
        self._clock = clock
        self._read_at: datetime | None = None
        self._weights: dict[str, float] = {}
        self._problem: str | None = None

    def of(self, tenant_id: str) -> float | None:
        """A tenant's weight, or None where the lane's has to do: its plan is not known here."""
        now = self._clock()
        if self._read_at is None or now - self._read_at >= FRESH:
            self._read_at = now
            self._read()
        return self._weights.get(tenant_id)

    def problem(self) -> str | None:
        """What kept the tenants from being read the last time, or None."""
        return self._problem

    def _read(self) -> None:
        try:
            tenants = self._reader.tenants()
        except TenantStoreError as exc:
            self._problem = exc.message
            log.warning("weights_outdated", error_code=exc.code, error_message=exc.message)
            return
        self._problem = None
        known = ((tenant.id, self._weight(tenant)) for tenant in tenants)
        self._weights = {tenant_id: weight for tenant_id, weight in known if weight is not None}

    def _weight(self, tenant: Tenant) -> float | None:
        try:
            return self._plans.resolve(tenant.plan, tenant.overrides).weight
        except PlanUnavailableError as exc:
            log.warning("weight_unknown", tenant_id=tenant.id, error_code=exc.code, error_message=exc.message)
            return None
