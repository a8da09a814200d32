"""Finds the result of work that was done before."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Literal

from services.gateway.breaker import Breaker
from shared.contracts.cache import SHARED_SCOPE, Sameness, cache_key
from shared.domain.errors import DecodeError, StorageError
from shared.domain.plans import Sharing
from shared.logging import get_logger
from shared.storage.work_index import WorkIndex

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client import Counter

    from services.gateway.results.near import NearResults
    from shared.auth.ports import Principal
    from shared.contracts.outcome import Outcome
    from shared.contracts.task import Params, TaskMessage
    from shared.storage.records import TaskRecords

log = get_logger(__name__)

# The result of the very same work, that of any seed, or none but its own.
Wish = Literal["auto", "any", "off"]


class Found(StrEnum):
    """What a look-up came to. BYPASS: this work is not shared; UNAVAILABLE: nobody can tell now."""

    HIT = "hit"
    MISS = "miss"
    BYPASS = "bypass"
    UNAVAILABLE = "unavailable"


class ResultCache:
    """Never fails for want of a store: a result that cannot be found is made again."""

    def __init__(
        self,
        records: TaskRecords,
        near: NearResults,
        *,
        revision: Callable[[str], str | None],
        counts: Counter,
        breaker: Breaker | None = None,
    ) -> None:
        self._index = WorkIndex(records)
        self._near = near
        self._revision = revision
        self._counts = {found: counts.labels(found=found) for found in Found}
        self._breaker = breaker or Breaker("results")

    @property
    def problem(self) -> str | None:
        """Why results are not found now, or None."""
        return self._breaker.problem

    def key(self, principal: Principal, model: str, params: Params, wish: Wish) -> str | None:
        """The cache key of a request, None where its work is its own."""
        sharing = principal.plan.results
        if wish == "off" or sharing is Sharing.OFF:
            return None
        revision = self._revision(model)
        if revision is None:
            return None
        scope = SHARED_SCOPE if sharing is Sharing.SHARED else f"tenant/{principal.tenant_id}"
        return cache_key(scope, model, revision, params, Sameness.ANY if wish == "any" else Sameness.SEED)

    def find(self, task: TaskMessage) -> tuple[Found, Outcome | None]:
        """The result of the task's work, if it is done."""
        found, made = self._find(task.cache_key)
        self._counts[found].inc()
        return found, made

    def _find(self, key: str | None) -> tuple[Found, Outcome | None]:
        if key is None:
            return Found.BYPASS, None
        if not self._breaker.may_ask():
            return Found.UNAVAILABLE, None
        try:
            made = self._look(key)
        except StorageError as exc:
            self._breaker.failed(exc)
            return Found.UNAVAILABLE, None
        except DecodeError as exc:
            log.warning("work_index_unreadable", cache_key=key, error_message=exc.message)
            return Found.UNAVAILABLE, None
        self._breaker.answered()
        return (Found.MISS, None) if made is None else (Found.HIT, made)

    def _look(self, key: str) -> Outcome | None:
        made = self._near.get(key)
        if made is not None and self._index.is_kept(made):
            return made
        made = self._index.find(key)
        if made is not None:
            self._near.put(key, made)
        return made
