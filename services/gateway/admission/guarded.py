"""The shared ledger where it answers, this process alone where it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.gateway.admission.errors import AdmissionError
from services.gateway.admission.redis_ledger import LedgerUnavailableError
from services.gateway.breaker import Breaker

if TYPE_CHECKING:
    from prometheus_client import Counter

    from services.gateway.admission.local import LocalAdmission
    from services.gateway.admission.ports import Admitted, Application
    from services.gateway.admission.redis_ledger import RedisLedger


class GuardedAdmission:
    """An Admission, and OpenTasks, that never fail for want of Redis."""

    def __init__(
        self, shared: RedisLedger, local: LocalAdmission, fallbacks: Counter, breaker: Breaker | None = None
    ) -> None:
        self._shared = shared
        self._local = local
        self._fallbacks = fallbacks
        self._breaker = breaker or Breaker("ledger")

    @property
    def problem(self) -> str | None:
        """See Admission."""
        return self._breaker.problem

    def admit(self, application: Application) -> Admitted:
        """See Admission."""
        if self._breaker.may_ask():
            try:
                admitted = self._shared.admit(application)
            except LedgerUnavailableError as exc:
                self._breaker.failed(exc)
            except AdmissionError:
                self._breaker.answered()
                raise
            else:
                self._breaker.answered()
                return admitted
        self._fallbacks.inc()
        return self._local.admit(application)

    def lower(self, application: Application, quality: str) -> str:
        """See Admission. Without the ledger the reservation keeps its price until the task ends."""
        if self._breaker.problem is not None:
            return quality
        try:
            return self._shared.lower(application.task_id, quality, application.gpu_seconds)
        except LedgerUnavailableError as exc:
            self._breaker.failed(exc)
            return quality

    def withdraw(self, application: Application) -> None:
        """See Admission. A reservation that cannot be freed lapses by itself."""
        if self._breaker.problem is not None:
            return
        try:
            self._shared.withdraw(application.task_id)
        except LedgerUnavailableError as exc:
            self._breaker.failed(exc)

    def owner(self, task_id: str) -> str | None:
        """See OpenTasks."""
        if not self._breaker.may_ask():
            return None
        try:
            owner = self._shared.owner(task_id)
        except LedgerUnavailableError as exc:
            self._breaker.failed(exc)
            return None
        self._breaker.answered()
        return owner
