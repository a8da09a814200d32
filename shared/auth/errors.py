"""Why a key is not accepted, beyond being unknown. Codes are stable."""

from __future__ import annotations

from shared.domain.errors import AtelierError, RequestError


class KeyRefusedError(RequestError):
    """The key was right once."""

    code = "key_refused"


class KeyRevokedError(KeyRefusedError):
    """The API key was revoked."""

    code = "key_revoked"


class KeyExpiredError(KeyRefusedError):
    """The API key has expired."""

    code = "key_expired"


class TenantSuspendedError(RequestError):
    """The tenant is suspended; its keys work again when it is resumed."""

    code = "tenant_suspended"


class TooManyFailuresError(RequestError):
    """Too many unknown keys came from this address; a key that worked here before still does."""

    code = "too_many_failures"
    retryable = True

    def __init__(self, *, retry_after_seconds: float) -> None:
        super().__init__()
        self.retry_after_seconds = retry_after_seconds


class TenantStoreError(AtelierError):
    """The store of tenants and keys could not be used."""

    code = "tenant_store_error"
    retryable = True


class KeysUnavailableError(TenantStoreError):
    """The key can be neither accepted nor refused now."""

    code = "keys_unavailable"


class PlanUnavailableError(TenantStoreError):
    """The tenant's plan, or what it has in place of it, is not one that this process knows."""

    code = "plan_unavailable"


class AdministrationError(AtelierError):
    """A change to tenants or keys makes no sense."""

    code = "administration_error"
