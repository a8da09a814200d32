"""Not every request has to find out for itself that a service is away."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final

from shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.domain.errors import AtelierError

log = get_logger(__name__)

# While it is away only one request in so many seconds waits for its time-out.
_RETRY_SECONDS: Final = 1.0
# One late answer on a busy host is one request's bad luck; so many in a row mean that the service is away.
_LATE_ANSWERS: Final = 3


class Breaker:
    """Whether to ask a service. Its users tell what came of it."""

    def __init__(self, service: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._service = service
        self._clock = clock
        self._lock = threading.Lock()
        self._late = 0
        self._away_until = 0.0
        self._problem: str | None = None

    @property
    def problem(self) -> str | None:
        """Why the service counts as away, or None."""
        return self._problem

    def may_ask(self) -> bool:
        """Whether this request should ask. While the service is away, it is the one that tries."""
        if self._problem is None:
            return True
        with self._lock:
            now = self._clock()
            if now < self._away_until:
                return False
            self._away_until = now + _RETRY_SECONDS
            return True

    def failed(self, error: AtelierError) -> None:
        """It did not answer, or not in time."""
        with self._lock:
            self._late += 1
            if self._late < _LATE_ANSWERS:
                return
            first, self._problem = self._problem is None, error.message
            self._away_until = self._clock() + _RETRY_SECONDS
        if first:
            log.warning("service_lost", service=self._service, error_code=error.code, error_message=error.message)

    def answered(self) -> None:
        """It answered, be it with a refusal."""
        self._late = 0
        if self._problem is None:
            return
        with self._lock:
            self._problem, self._away_until = None, 0.0
        log.info("service_found", service=self._service)
