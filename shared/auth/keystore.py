"""API keys checked against the store of tenants, remembered for seconds, and for minutes while the store is away."""

from __future__ import annotations

import hmac
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from prometheus_client import Counter

from shared.auth.errors import (
    KeyExpiredError,
    KeyRevokedError,
    KeysUnavailableError,
    PlanUnavailableError,
    TenantStoreError,
    TenantSuspendedError,
)
from shared.auth.keys import hash_key, prefix_of
from shared.auth.ports import Principal
from shared.auth.store.ports import TenantState
from shared.clock import utc_now
from shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from prometheus_client import CollectorRegistry

    from shared.auth.plans import PlanBook
    from shared.auth.store.ports import KeyReader
    from shared.clock import Clock

log = get_logger(__name__)
T = TypeVar("T")

# While one request asks the store again, others go on with what is known for so many seconds more.
_GRACE_SECONDS: Final = 2.0
# A store that failed is left alone for so long: each attempt may take as long as its timeouts.
_RETRY_SECONDS: Final = 1.0
_MOST_KNOWN: Final = 100_000
_MOST_UNKNOWN: Final = 10_000
_DECOY: Final = bytes(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePolicy:
    """How long what the store said counts, in seconds: while it answers, and while it does not."""

    fresh: float = 5.0
    stale: float = 300.0


@dataclass(frozen=True, slots=True)
class _Known:
    read_at: float
    hash: bytes
    principal: Principal | None
    problem: str
    revoked: bool
    suspended: bool
    expires_at: datetime | None


class KeyStore:
    """An Authenticator. A request costs a look-up and one HMAC; the store is asked once in ``policy.fresh`` seconds."""

    def __init__(
        self,
        reader: KeyReader,
        pepper: str,
        plans: PlanBook,
        *,
        registry: CollectorRegistry,
        policy: CachePolicy | None = None,
        clocks: tuple[Callable[[], float], Clock] = (time.monotonic, utc_now),
    ) -> None:
        self._reader = reader
        self._pepper = pepper
        self._plans = plans
        self._policy = policy or CachePolicy()
        self._clock, self._now = clocks
        self._known: dict[str, _Known] = {}
        self._unknown: dict[str, float] = {}
        self._asking: set[str] = set()
        self._reached_at: float | None = None
        self._failed_at: float | None = None
        self._failure = ""
        self._stale = Counter(
            "atelier_keys_stale", "Requests let in while the tenant store was away.", registry=registry
        )
        self._reads = Counter("atelier_keys_reads", "Look-ups in the tenant store.", ["outcome"], registry=registry)

    def remembers(self, key: str) -> bool:
        """See Authenticator: whether a key of this prefix was found in the store before."""
        return prefix_of(key) in self._known

    def authenticate(self, key: str) -> Principal | None:
        """See Authenticator. A known and an unknown prefix cost the same hash and the same comparison."""
        prefix = prefix_of(key)
        if prefix is None:
            return None
        given = hash_key(key, self._pepper)
        known = self._lookup(prefix)
        if not hmac.compare_digest(given, known.hash if known else _DECOY) or known is None:
            return None
        return self._in_force(known)

    def problem(self) -> str | None:
        """Why no key can be accepted, or None. Asks the store."""
        failure = self._probe()
        served = self._reached_at is not None and self._clock() - self._reached_at <= self._policy.stale
        return None if served else failure

    def warning(self) -> str | None:
        """Why only the keys of the last minutes are accepted, or None."""
        return self._failure or None

    def _in_force(self, known: _Known) -> Principal:
        if known.revoked:
            raise KeyRevokedError
        if known.expires_at is not None and known.expires_at <= self._now():
            raise KeyExpiredError
        if known.suspended:
            raise TenantSuspendedError
        if known.principal is None:
            raise PlanUnavailableError(known.problem)
        return known.principal

    def _lookup(self, prefix: str) -> _Known | None:
        now, fresh = self._clock(), self._policy.fresh
        known = self._known.get(prefix)
        if known is None:
            absent_at = self._unknown.get(prefix)
            return None if absent_at is not None and now - absent_at < fresh else self._read(prefix, None, now)
        age = now - known.read_at
        if age < fresh or (prefix in self._asking and age < fresh + _GRACE_SECONDS):
            return known
        return self._read(prefix, known, now)

    def _read(self, prefix: str, before: _Known | None, now: float) -> _Known | None:
        if self._failed_at is not None and now - self._failed_at < _RETRY_SECONDS:
            return self._without_store(before, now)
        self._asking.add(prefix)
        try:
            known = self._ask(prefix, now)
        except TenantStoreError as exc:
            self._failed(exc)
            return self._without_store(before, now)
        finally:
            self._asking.discard(prefix)
        self._reached(now)
        return known

    def _ask(self, prefix: str, now: float) -> _Known | None:
        found = self._reader.find(prefix)
        if found is None:
            self._reads.labels("absent").inc()
            self._known.pop(prefix, None)
            _remember(self._unknown, prefix, now, _MOST_UNKNOWN)
            return None
        self._reads.labels("found").inc()
        key, tenant = found
        problem, principal = "", None
        try:
            plan = self._plans.resolve(tenant.plan, tenant.overrides)
            principal = Principal(
                tenant_id=tenant.id,
                plan=plan,
                key_prefix=prefix,
                callback_url=tenant.callback_url,
                callback_events=tenant.callback_events,
            )
        except PlanUnavailableError as exc:
            problem = f"the plan of tenant {tenant.id} cannot be used"
            log.error("tenant_plan_unavailable", tenant_id=tenant.id, error_message=exc.message)  # noqa: TRY400 - no stack
        known = _Known(
            read_at=now,
            hash=_stored_hash(key.hash),
            principal=principal,
            problem=problem,
            revoked=key.revoked_at is not None,
            suspended=tenant.state is not TenantState.ACTIVE,
            expires_at=key.expires_at,
        )
        newer = self._known.get(prefix)
        if newer is not None and newer.read_at > now:
            return newer  # of two that asked at the same time the later one knows more
        self._unknown.pop(prefix, None)
        _remember(self._known, prefix, known, _MOST_KNOWN)
        return known

    def _without_store(self, before: _Known | None, now: float) -> _Known:
        if before is None or now - before.read_at > self._policy.stale:
            raise KeysUnavailableError
        self._stale.inc()
        return before

    def _probe(self) -> str | None:
        now = self._clock()
        if self._failed_at is None or now - self._failed_at >= _RETRY_SECONDS:
            try:
                self._reader.check()
            except TenantStoreError as exc:
                self._failed(exc)
            else:
                self._reached(now)
        return self._failure or None

    def _failed(self, error: TenantStoreError) -> None:
        self._reads.labels("failed").inc()
        if self._failed_at is None:
            log.error("tenant_store_failed", error_message=error.message)
        self._failed_at, self._failure = self._clock(), error.message

    def _reached(self, now: float) -> None:
        if self._failed_at is not None:
            log.info("tenant_store_back")
        self._reached_at, self._failed_at, self._failure = now, None, ""


def _remember(memory: dict[str, T], prefix: str, value: T, most: int) -> None:
    memory.pop(prefix, None)
    memory[prefix] = value
    if len(memory) > most:
        del memory[next(iter(memory))]


def _stored_hash(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as exc:
        message = "the record of a key cannot be read"
        raise TenantStoreError(message) from exc
