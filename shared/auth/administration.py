"""What an operator does with tenants and keys. Every change is logged as ``audit``."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from shared.auth.errors import AdministrationError, PlanUnavailableError
from shared.auth.keys import generate_key, hash_key, prefix_of
from shared.auth.store.ports import ApiKey, Tenant, TenantState, WebhookSecret
from shared.auth.webhook_secrets import generate_secret
from shared.contracts.base import TenantId
from shared.domain.callbacks import CALLBACK_EVENTS, callback_event
from shared.domain.errors import UrlRefusedError
from shared.domain.outbound import OutboundPolicy, parse_url
from shared.domain.plans import ANONYMOUS_PREFIX, is_anonymous
from shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime, timedelta

    from shared.auth.plans import PlanBook
    from shared.auth.store.ports import TenantStore
    from shared.clock import Clock
    from shared.domain.task import EventType

log = get_logger(__name__)
_TENANT_ID = TypeAdapter(TenantId)


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key as it is shown, once, and its record."""

    text: str
    record: ApiKey


class Administration:
    """The use cases. Each raises AdministrationError for what makes no sense, TenantStoreError for a store that fails.

    ``pepper`` is asked for only by what makes a key.
    """

    def __init__(
        self,
        store: TenantStore,
        plans: PlanBook,
        pepper: str | None,
        *,
        clock: Clock,
        actor: str,
        outbound: OutboundPolicy | None = None,
    ) -> None:
        self._store = store
        self._outbound = outbound or OutboundPolicy()
        self._plans = plans
        self._pepper = pepper
        self._clock = clock
        self._actor = actor

    def create_tenant(self, tenant_id: str, plan: str, *, name: str = "", **overrides: object) -> Tenant:
        """A new tenant."""
        try:
            _TENANT_ID.validate_python(tenant_id)
        except ValidationError as exc:
            message = f"{tenant_id!r} cannot be a tenant's id: lower-case letters, digits, - and _, at most 63"
            raise AdministrationError(message) from exc
        if is_anonymous(tenant_id):
            message = f"{tenant_id!r} cannot be a tenant's id: {ANONYMOUS_PREFIX}… are addresses without a key"
            raise AdministrationError(message)
        self._check_plan(plan, overrides)
        tenant = Tenant(id=tenant_id, name=name, plan=plan, created_at=self._clock(), overrides=overrides)
        if not self._store.add_tenant(tenant):
            message = f"there is a tenant {tenant_id} already"
            raise AdministrationError(message)
        self._audit("tenant_created", tenant_id, plan=plan, overrides=overrides)
        return tenant

    def ensure_tenant(self, tenant_id: str, plan: str) -> Tenant:
        """The tenant with this plan, made when there is none."""
        tenant = self._store.tenant(tenant_id)
        if tenant is None:
            return self.create_tenant(tenant_id, plan)
        if tenant.plan != plan:
            message = f"tenant {tenant_id} has plan {tenant.plan}: use `tenant set-plan`"
            raise AdministrationError(message)
        return tenant

    def set_plan(self, tenant_id: str, plan: str, overrides: Mapping[str, Any]) -> Tenant:
        """Another plan; overrides are replaced as a whole."""
        self._check_plan(plan, overrides)
        if not self._store.set_plan(tenant_id, plan, overrides):
            raise _no_tenant(tenant_id)
        self._audit("tenant_plan_set", tenant_id, plan=plan, overrides=dict(overrides))
        return self.tenant(tenant_id)

    def set_state(self, tenant_id: str, state: TenantState) -> Tenant:
        """Suspend or resume: within seconds all keys of the tenant are refused, or work again."""
        if not self._store.set_state(tenant_id, state):
            raise _no_tenant(tenant_id)
        self._audit("tenant_suspended" if state is TenantState.SUSPENDED else "tenant_resumed", tenant_id)
        return self.tenant(tenant_id)

    def tenant(self, tenant_id: str) -> Tenant:
        """One tenant."""
        tenant = self._store.tenant(tenant_id)
        if tenant is None:
            raise _no_tenant(tenant_id)
        return tenant

    def tenants(self) -> list[Tenant]:
        """Every tenant."""
        return list(self._store.tenants())

    def keys(self, tenant_id: str | None = None) -> list[ApiKey]:
        """Every key, or those of one tenant."""
        return list(self._store.keys(tenant_id))

    def create_key(self, tenant_id: str, *, name: str = "", lifetime: timedelta | None = None) -> NewKey:
        """A new key of a tenant that exists."""
        self.tenant(tenant_id)
        now = self._clock()
        while True:
            new = self._draw(tenant_id, name, now, None if lifetime is None else now + lifetime)
            if self._store.add_key(new.record):  # else its prefix is taken
                break
        self._audit("key_created", tenant_id, key_prefix=new.record.prefix, expires_at=_text(new.record.expires_at))
        return new

    def rotate_key(self, prefix: str, *, grace: timedelta) -> NewKey:
        """A new key in place of an old one, which works for ``grace`` more."""
        old, now = self._key(prefix), self._clock()
        if old.revoked_at is not None or (old.expires_at is not None and old.expires_at <= now):
            message = f"key {prefix} is not in force: make a new one"
            raise AdministrationError(message)
        while True:
            new = self._draw(old.tenant_id, old.name, now, None)
            if self._store.replace_key(prefix, new.record, now + grace):
                break
        details = {"key_prefix": new.record.prefix, "old_prefix": prefix, "old_expires_at": _text(now + grace)}
        self._audit("key_rotated", old.tenant_id, **details)
        return new

    def revoke_key(self, prefix: str) -> ApiKey:
        """End a key: within seconds it is refused everywhere."""
        self._key(prefix)
        self._store.revoke(prefix, self._clock())
        key = self._key(prefix)
        self._audit("key_revoked", key.tenant_id, key_prefix=prefix)
        return key

    def set_callback(self, tenant_id: str, url: str | None, events: Sequence[str] | None = None) -> Tenant:
        """Call the tenant back at a URL for some events (None: every end) where a request names no URL."""
        if url is None and events:
            message = "events are of no use without a URL"
            raise AdministrationError(message)
        if url is not None:
            try:
                parse_url(url, self._outbound)
            except UrlRefusedError as exc:
                raise AdministrationError(exc.message) from exc
        kinds = None if not events else tuple(dict.fromkeys(map(_callback_event, events)))
        if not self._store.set_callback(tenant_id, url, kinds):
            raise _no_tenant(tenant_id)
        self._audit("tenant_callback_set", tenant_id, called_back=url is not None, events=kinds)
        return self.tenant(tenant_id)

    def webhook_secrets(self, tenant_id: str) -> list[WebhookSecret]:
        """Every secret of a tenant, the newest first."""
        self.tenant(tenant_id)
        return list(self._store.webhook_secrets(tenant_id))

    def create_webhook_secret(self, tenant_id: str, *, overlap: timedelta | None = None) -> WebhookSecret:
        """A new secret of a tenant that exists; with ``overlap`` the others sign beside it for so much longer."""
        self.tenant(tenant_id)
        now = self._clock()
        expires_at = None if overlap is None else now + overlap
        while True:
            new = WebhookSecret(id=secrets.token_hex(4), tenant_id=tenant_id, text=generate_secret(), created_at=now)
            if self._store.add_webhook_secret(new, expires_at):  # else its id is taken
                break
        action = "webhook_secret_created" if overlap is None else "webhook_secret_rotated"
        self._audit(action, tenant_id, secret_id=new.id, old_expire_at=_text(expires_at))
        return new

    def revoke_webhook_secret(self, secret_id: str) -> WebhookSecret:
        """End a secret: within seconds nothing is signed with it."""
        secret = self._store.revoke_webhook_secret(secret_id, self._clock())
        if secret is None:
            message = f"there is no webhook secret {secret_id}"
            raise AdministrationError(message)
        self._audit("webhook_secret_revoked", secret.tenant_id, secret_id=secret_id)
        return secret

    def is_in_force(self, text: str) -> bool:
        """Whether a key that somebody kept still opens."""
        prefix = prefix_of(text)
        found = None if prefix is None else self._store.find(prefix)
        if found is None or found[0].revoked_at is not None or found[0].hash != hash_key(text, self._secret()).hex():
            return False
        return found[0].expires_at is None or found[0].expires_at > self._clock()

    def _key(self, prefix: str) -> ApiKey:
        found = self._store.find(prefix)
        if found is None:
            message = f"there is no key with prefix {prefix}"
            raise AdministrationError(message)
        return found[0]

    def _draw(self, tenant_id: str, name: str, now: datetime, expires_at: datetime | None) -> NewKey:
        text = generate_key()
        record = ApiKey(
            prefix=prefix_of(text) or "",
            hash=hash_key(text, self._secret()).hex(),
            tenant_id=tenant_id,
            name=name,
            created_at=now,
            expires_at=expires_at,
        )
        return NewKey(text, record)

    def _secret(self) -> str:
        if self._pepper is None:
            message = "ATELIER_KEY_PEPPER: not set"
            raise AdministrationError(message)
        return self._pepper

    def _check_plan(self, plan: str, overrides: Mapping[str, Any]) -> None:
        try:
            self._plans.resolve(plan, overrides)
        except PlanUnavailableError as exc:
            raise AdministrationError(exc.message) from exc

    def _audit(self, action: str, tenant_id: str, **details: object) -> None:
        log.info("audit", action=action, actor=self._actor, tenant_id=tenant_id, **details)


def _no_tenant(tenant_id: str) -> AdministrationError:
    return AdministrationError(f"there is no tenant {tenant_id} (`tenant create` makes one)")


def _callback_event(text: str) -> EventType:
    kind = callback_event(text)
    if kind is None:
        message = f"nobody is called back for {text!r}; there are {', '.join(sorted(CALLBACK_EVENTS))}"
        raise AdministrationError(message)
    return kind


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
