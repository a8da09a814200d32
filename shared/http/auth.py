"""Whose request it is: ``Authorization: Bearer <key>`` or ``X-API-Key: <key>``, or nobody's where that is allowed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import request

from shared.auth.anonymous import anonymous_principal
from shared.auth.errors import KeyRefusedError, TenantStoreError, TenantSuspendedError
from shared.auth.failures import FailureBuckets
from shared.http.client_address import client_address
from shared.http.errors import UnauthorizedError
from shared.logging import bind

if TYPE_CHECKING:
    from collections.abc import Callable

    from prometheus_client import CollectorRegistry

    from shared.auth.ports import Authenticator, Principal
    from shared.config import AuthSettings
    from shared.domain.plans import Plan


class Gatekeeper:
    """Tells whose the current request is, and keeps those who guess away from the keys.

    ``anonymous`` is the plan of requests without a key; None where a key is needed.
    """

    def __init__(
        self,
        authenticator: Authenticator,
        failures: FailureBuckets,
        *,
        trusted_proxies: int,
        anonymous: Plan | None = None,
        pepper: str = "",
    ) -> None:
        self._authenticator = authenticator
        self._failures = failures
        self._trusted_proxies = trusted_proxies
        self._anonymous = anonymous
        self._pepper = pepper

    def authenticate(self) -> Principal:
        """The owner of the request's API key.

        Raises UnauthorizedError, TooManyFailuresError for one more unknown key of an address that sent many, and what
        the authenticator raises.
        """
        key = _key()
        if not key:
            message = "no API key: send Authorization: Bearer <key> or X-API-Key: <key>"
            raise UnauthorizedError(message)
        principal = self._owner(key)
        if principal is None:
            message = "the API key is not known"
            raise UnauthorizedError(message)
        bind(tenant_id=principal.tenant_id)
        return principal

    def admit(self) -> Principal:
        """As ``authenticate``; a request without any credentials is its address's where the anonymous plan is on."""
        # A wrong or empty key was meant to be one: its sender shall hear of it.
        if self._anonymous is None or "Authorization" in request.headers or "X-API-Key" in request.headers:
            return self.authenticate()
        principal = anonymous_principal(self._anonymous, self._address(), self._pepper)
        bind(tenant_id=principal.tenant_id)
        return principal

    def recheck(self, principal: Principal) -> Callable[[], bool]:
        """For answers that last: tells later, without the request, whether its key is still the owner's.

        While nobody can tell it counts as good.
        """
        key = _key()

        def in_force() -> bool:
            try:
                owner = self._authenticator.authenticate(key)
            except TenantStoreError:
                return True
            except (KeyRefusedError, TenantSuspendedError):
                return False
            return owner is not None and owner.tenant_id == principal.tenant_id

        return in_force if key else lambda: True

    def check_failures(self) -> None:
        """Raise TooManyFailuresError where the request's address has failed too often."""
        self._failures.check(self._address())

    def count_failure(self) -> None:
        """The request guessed wrong. Raises TooManyFailuresError for one too many."""
        self._failures.count(self._address())

    def _owner(self, key: str) -> Principal | None:
        # The good path: no address is parsed, no bucket is asked. Tenants in memory pass whatever their neighbours do.
        if self._authenticator.remembers(key):
            principal = self._authenticator.authenticate(key)
            if principal is None:
                self.count_failure()
            return principal
        with self._failures.attempt(self._address(), key) as fail:
            principal = self._authenticator.authenticate(key)
            if principal is None:
                fail()
        return principal

    def _address(self) -> str:
        return client_address(self._trusted_proxies)


def gatekeeper(
    authenticator: Authenticator, settings: AuthSettings, anonymous: Plan | None, registry: CollectorRegistry
) -> Gatekeeper:
    """A service's gatekeeper, as its settings have it."""
    return Gatekeeper(
        authenticator,
        FailureBuckets(settings.auth_failures_per_minute, registry=registry),
        trusted_proxies=settings.trusted_proxies,
        anonymous=anonymous,
        pepper=settings.key_pepper.get_secret_value(),
    )


def _key() -> str:
    headers = request.headers
    scheme, _, key = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    return headers.get("X-API-Key", "").strip()
