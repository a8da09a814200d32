"""Results in Redis, before the bucket is asked. What is lost there, or late, is found in the bucket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import redis

from services.gateway.breaker import Breaker
from services.gateway.redis_client import redis_failure
from shared.contracts.base import decode, encode
from shared.contracts.outcome import Outcome
from shared.domain.errors import DecodeError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable

KEPT_SECONDS: Final = 3600
_PREFIX: Final = "atelier:result:"


class NearResults(Protocol):
    """Outcomes by cache key, for a while. Nothing is raised: a result that cannot be had is none."""

    def get(self, key: str) -> Outcome | None:
        """The outcome that was put last."""
        ...

    def put(self, key: str, made: Outcome) -> None:
        """Keep an outcome."""
        ...


class RedisResults:
    """NearResults over all gateways."""

    def __init__(self, client: redis.Redis, breaker: Breaker | None = None) -> None:
        self._client = client
        self._breaker = breaker or Breaker("near_results")

    def get(self, key: str) -> Outcome | None:
        """See NearResults."""
        text = self._ask(lambda: self._client.get(_PREFIX + key))
        if not isinstance(text, str):
            return None
        try:
            return decode(Outcome, text.encode())
        except DecodeError:
            return None  # of another version; the bucket has it as well

    def put(self, key: str, made: Outcome) -> None:
        """See NearResults."""
        self._ask(lambda: self._client.set(_PREFIX + key, encode(made), ex=KEPT_SECONDS))

    def _ask(self, call: Callable[[], object]) -> object:
        if not self._breaker.may_ask():
            return None
        try:
            answer = call()
        except redis.RedisError as exc:
            self._breaker.failed(StorageError(redis_failure(exc)))
            return None
        self._breaker.answered()
        return answer


class NoNearResults:
    """Where there is no Redis."""

    def get(self, key: str) -> None:
        """See NearResults."""
        del key

    def put(self, key: str, made: Outcome) -> None:
        """See NearResults."""
        del key, made
