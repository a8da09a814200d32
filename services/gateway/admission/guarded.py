"""The shared ledger where it answers, this process alone where it does not."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from services.gateway.admission.errors import AdmissionError
from services.gateway.admission.redis_ledger import LedgerUnavailableError
from shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client import Counter

    from services.gateway.admission.local import LocalAdmission
    from services.gateway.admission.ports import Admitted, Application
    from services.gateway.admission.redis_ledger import RedisLedger

log = get_logger(__name__)

# While Redis is away only one request in so many seconds waits for its time-out.
_RETRY_SECONDS: Final = 1.0
# One late answer on a busy host decides one submit; so many in a row mean that Redis is away.
_LATE_ANSWERS: Final = 3


class GuardedAdmission:
    """An Admission that never fails for want of Redis."""

    def __init__(
        self,
        shared: RedisLedger,
        local: LocalAdmission,
        fallbacks: Counter,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shared = shared
        self._local = local
        self._fallbacks = fallbacks
        self._clock = clock
        self._lock = threading.Lock()
        self._away_until = 0.0
        self._late = 0
        self._problem: str | None = None

    @property
    def problem(self) -> str | None:
        """See Admission."""
        return self._problem

    def admit(self, application: Application) -> Admitted:
        """See Admission."""
        if self._try_shared():
            try:
                admitted = self._shared.admit(application)
            except LedgerUnavailableError as exc:
                self._lose(exc)
            except AdmissionError:
                self._find()  # a refusal is an answer
                raise
            else:
                self._find()
                return admitted
        self._fallbacks.inc()
        return self._local.admit(application)

    def withdraw(self, application: Application) -> None:
        """See Admission. A reservation that cannot be freed lapses by itself."""
        if self._problem is not None:
            return
        try:
            self._shared.withdraw(application.task_id)
        except LedgerUnavailableError as exc:
            self._lose(exc)

    def _try_shared(self) -> bool:
        with self._lock:
            now = self._clock()
            if now < self._away_until:
                return False
            if self._problem is not None:
                self._away_until = now + _RETRY_SECONDS
            return True

    def _lose(self, error: LedgerUnavailableError) -> None:
        with self._lock:
            self._late += 1
            if self._late < _LATE_ANSWERS:
                return
            first = self._problem is None
            self._problem = error.message
            self._away_until = self._clock() + _RETRY_SECONDS
        if first:
            log.warning("ledger_lost", error_code=error.code, error_message=error.message)

    def _find(self) -> None:
        self._late = 0
        if self._problem is not None:
            with self._lock:
                self._problem = None
                self._away_until = 0.0
            log.info("ledger_found")
