"""What every store of tenants must do; run on the fake, on SQLite and on PostgreSQL."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from shared.auth.errors import TenantStoreError
from shared.auth.store.ports import ApiKey, Tenant, TenantState, WebhookSecret
from shared.domain.task import EventType
from tests.support.builders import NOW

if TYPE_CHECKING:
    from shared.auth.store.ports import TenantStore

ACME = Tenant(id="acme", name="Acme, Inc. ü", plan="free", created_at=NOW, overrides={"queued": 5, "models": ["a"]})
KEY = ApiKey(prefix="01234567", hash="a" * 64, tenant_id="acme", name="laptop", created_at=NOW)
OTHER = replace(KEY, prefix="89abcdef", created_at=NOW + timedelta(seconds=1))
SECRET = WebhookSecret(id="01234567", tenant_id="acme", text="whsec_c2VjcmV0", created_at=NOW)
LATER = NOW + timedelta(hours=1, microseconds=1)


class TenantStoreContract:
    def test_a_tenant_comes_back_as_it_was_kept_and_its_id_is_taken(self, store: TenantStore) -> None:
        assert store.tenant("acme") is None
        assert store.add_tenant(ACME)
        assert not store.add_tenant(replace(ACME, name="another"))
        assert store.tenant("acme") == ACME
        assert store.add_tenant(replace(ACME, id="aaa"))
        assert [tenant.id for tenant in store.tenants()] == ["aaa", "acme"]

    def test_a_key_is_found_by_its_prefix_with_its_tenant(self, store: TenantStore) -> None:
        store.add_tenant(ACME)
        key = replace(KEY, expires_at=LATER)
        assert store.find(KEY.prefix) is None
        assert store.add_key(key)
        assert store.find(KEY.prefix) == (key, ACME)

    def test_a_prefix_that_is_taken_leaves_its_key_as_it_is(self, store: TenantStore) -> None:
        store.add_tenant(ACME)
        store.add_key(KEY)
        assert not store.add_key(replace(KEY, hash="b" * 64))
        assert store.find(KEY.prefix) == (KEY, ACME)

    def test_a_key_of_nobody_is_refused(self, store: TenantStore) -> None:
        with pytest.raises(TenantStoreError):
            store.add_key(KEY)
        assert store.keys() == []

    def test_plan_and_state_change(self, store: TenantStore) -> None:
        store.add_tenant(ACME)
        assert store.set_plan("acme", "vip", {"weight": 2.5})
        assert store.set_state("acme", TenantState.SUSPENDED)
        assert store.tenant("acme") == replace(ACME, plan="vip", overrides={"weight": 2.5}, state=TenantState.SUSPENDED)
        assert not store.set_plan("nobody", "vip", {})
        assert not store.set_state("nobody", TenantState.ACTIVE)

    def test_a_key_is_revoked_once(self, store: TenantStore) -> None:
        store.add_tenant(ACME)
        store.add_key(KEY)
        assert store.revoke(KEY.prefix, NOW)
        assert store.revoke(KEY.prefix, LATER)
        assert store.find(KEY.prefix) == (replace(KEY, revoked_at=NOW), ACME)
        assert not store.revoke("ffffffff", NOW)

    def test_a_key_in_place_of_another_lets_the_old_one_expire(self, store: TenantStore) -> None:
        store.add_tenant(ACME)
        store.add_key(KEY)
        assert store.replace_key(KEY.prefix, OTHER, LATER)
        assert store.keys() == [replace(KEY, expires_at=LATER), OTHER]

    def test_a_key_never_gains_time_by_being_replaced(self, store: TenantStore) -> None:
        store.add_tenant(ACME)
        store.add_key(replace(KEY, expires_at=NOW))
        assert store.replace_key(KEY.prefix, OTHER, LATER)
        assert store.keys() == [replace(KEY, expires_at=NOW), OTHER]

    def test_where_the_new_prefix_is_taken_the_old_key_goes_on(self, store: TenantStore) -> None:
        store.add_tenant(ACME)
        store.add_key(KEY)
        store.add_key(OTHER)
        assert not store.replace_key(KEY.prefix, replace(OTHER, hash="b" * 64), LATER)
        assert store.keys() == [KEY, OTHER]

    def test_keys_are_listed_for_one_tenant_or_for_all(self, store: TenantStore) -> None:
        for tenant in (ACME, replace(ACME, id="zeus")):
            store.add_tenant(tenant)
        store.add_key(KEY)
        store.add_key(replace(OTHER, tenant_id="zeus"))
        assert [key.prefix for key in store.keys()] == [KEY.prefix, OTHER.prefix]  # noqa: SIM118 - a method, no dict
        assert [key.prefix for key in store.keys("zeus")] == [OTHER.prefix]
        assert store.keys("nobody") == []

    def test_a_tenants_callback_changes_and_goes(self, store: TenantStore) -> None:
        store.add_tenant(ACME)
        events = (EventType.STARTED, EventType.FAILED)
        assert store.set_callback("acme", "https://example.com/", events)
        called = replace(ACME, callback_url="https://example.com/", callback_events=events)
        assert store.tenant("acme") == called
        store.add_key(KEY)
        assert store.find(KEY.prefix) == (KEY, called)
        assert store.set_callback("acme", None, None)
        assert store.tenant("acme") == ACME
        assert not store.set_callback("nobody", None, None)

    def test_a_tenants_secrets_are_its_own_the_newest_first(self, store: TenantStore) -> None:
        for tenant in (ACME, replace(ACME, id="zeus")):
            store.add_tenant(tenant)
        newer = replace(SECRET, id="89abcdef", created_at=LATER)
        for secret in (SECRET, newer, replace(SECRET, id="00000000", tenant_id="zeus")):
            assert store.add_webhook_secret(secret)
        assert store.webhook_secrets("acme") == [newer, SECRET]
        assert store.webhook_secrets("nobody") == []

    def test_a_secret_whose_id_is_taken_or_whose_tenant_is_missing_changes_nothing(self, store: TenantStore) -> None:
        with pytest.raises(TenantStoreError):
            store.add_webhook_secret(SECRET)
        store.add_tenant(ACME)
        store.add_webhook_secret(SECRET)
        assert not store.add_webhook_secret(replace(SECRET, text="other"), NOW)
        assert store.webhook_secrets("acme") == [SECRET]

    def test_secrets_expire_beside_a_new_one_and_gain_no_time_by_it(self, store: TenantStore) -> None:
        store.add_tenant(ACME)
        short = replace(SECRET, id="11111111", expires_at=NOW + timedelta(seconds=1))
        newest = replace(SECRET, id="22222222", created_at=LATER)
        store.add_webhook_secret(SECRET)
        store.add_webhook_secret(short)
        assert store.add_webhook_secret(newest, LATER)
        assert store.webhook_secrets("acme") == [newest, replace(SECRET, expires_at=LATER), short]

    def test_a_secret_is_revoked_once(self, store: TenantStore) -> None:
        store.add_tenant(ACME)
        store.add_webhook_secret(SECRET)
        revoked = replace(SECRET, revoked_at=NOW)
        assert store.revoke_webhook_secret(SECRET.id, NOW) == revoked
        assert store.revoke_webhook_secret(SECRET.id, LATER) == revoked
        assert store.webhook_secrets("acme") == [revoked]
        assert store.revoke_webhook_secret("ffffffff", NOW) is None

    def test_preparing_again_keeps_what_is_there(self, store: TenantStore) -> None:
        store.add_tenant(ACME)
        store.prepare()
        store.check()
        assert store.tenant("acme") == ACME
