"""How long each tenant keeps its results, by its plan as it is now."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from shared.auth.errors import PlanUnavailableError
from shared.contracts.cache import SHARED_SCOPE, scope_of
from shared.domain.keeping import kept_until
from shared.domain.plans import Sharing, is_anonymous
from shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shared.auth.plans import PlanBook
    from shared.auth.store.ports import KeyReader
    from shared.contracts.outcome import Outcome
    from shared.domain.plans import Plan

log = get_logger(__name__)

_NEVER: Final = datetime.max.replace(tzinfo=UTC)


class KeepTimes:
    """As of one moment. Of a tenant that is not known, results are kept for the longest that any plan says.

    Of one whose plan cannot be told (``unclear``) nothing is deleted: it may have been promised more.
    """

    def __init__(
        self,
        plans: Iterable[Plan],
        tenants: dict[str, Plan],
        anonymous: Plan | None,
        unclear: frozenset[str] = frozenset(),
    ) -> None:
        self._unclear = unclear
        every = [*plans, *tenants.values()]
        self._of = {tenant_id: _days(plan) for tenant_id, plan in tenants.items()}
        self._longest = max(map(_days, every))
        self._anonymous = self._longest if anonymous is None else _days(anonymous)
        self._sharing = max((_days(plan) for plan in every if plan.results is Sharing.SHARED), default=self._longest)
        self.shortest = min(map(_days, every))

    def of(self, tenant_id: str) -> timedelta:
        """How long a tenant keeps its results."""
        if is_anonymous(tenant_id):
            return self._anonymous
        return self._of.get(tenant_id, self._longest)

    def until(self, outcome: Outcome) -> datetime:
        """Until when the artifacts of a task are kept."""
        task = outcome.task
        if task.tenant_id in self._unclear:
            return _NEVER
        own = self.of(task.tenant_id)
        others: timedelta | None = None
        if task.cache_key is not None:
            # Who shared results once may have been on another plan then.
            others = max(own, self._sharing) if scope_of(task.cache_key) == SHARED_SCOPE else own
        return kept_until(task.submitted_at, outcome.ended_at, own, others)


def read_keep_times(reader: KeyReader, book: PlanBook) -> KeepTimes:
    """The times of all tenants. Raises TenantStoreError."""
    tenants: dict[str, Plan] = {}
    unclear: set[str] = set()
    for tenant in reader.tenants():
        try:
            tenants[tenant.id] = book.resolve(tenant.plan, tenant.overrides)
        except PlanUnavailableError as exc:
            log.warning("keep_time_unknown", tenant_id=tenant.id, error_code=exc.code, error_message=exc.message)
            unclear.add(tenant.id)
    plans = [book.resolve(name, {}) for name in book.names]
    every = [*plans, *([book.anonymous] if book.anonymous else [])]
    return KeepTimes(every, tenants, book.anonymous, frozenset(unclear))


def _days(plan: Plan) -> timedelta:
    return timedelta(days=plan.keep_results_days)
