from __future__ import annotations

import hmac
from dataclasses import replace
from datetime import timedelta

import pytest

from shared.auth import keystore
from shared.auth.errors import (
    KeyExpiredError,
    KeyRevokedError,
    KeysUnavailableError,
    PlanUnavailableError,
    TenantSuspendedError,
)
from shared.auth.keys import generate_key
from shared.auth.keystore import CachePolicy
from shared.auth.store.ports import TenantState
from shared.domain.task import Lane
from tests.support.tenants import TenantWorld


@pytest.fixture
def world() -> TenantWorld:
    return TenantWorld(CachePolicy(fresh=5, stale=300))


def stale(world: TenantWorld) -> float:
    return world.registry.get_sample_value("atelier_keys_stale_total") or 0.0


def test_a_key_tells_tenant_plan_and_prefix(world: TenantWorld) -> None:
    key = world.key_of("acme", "vip")
    principal = world.keys.authenticate(key)
    assert principal is not None
    assert (principal.tenant_id, principal.plan.name, principal.lane) == ("acme", "vip", Lane.VIP)
    assert principal.key_prefix == key[4:12]


def test_the_right_prefix_with_a_wrong_secret_is_nobody(world: TenantWorld) -> None:
    key = world.key_of("acme")
    assert world.keys.authenticate(f"atl_{key[4:12]}_{'x' * 43}") is None


def test_what_is_no_key_is_nobody_and_never_reaches_the_store(world: TenantWorld) -> None:
    assert world.keys.authenticate("x" * 10_000) is None
    assert world.store.reads == 0


def test_known_and_unknown_prefixes_take_the_same_comparison(
    world: TenantWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[int, int]] = []

    def compare(given: bytes, expected: bytes) -> bool:
        compared.append((len(given), len(expected)))
        return digests_match(given, expected)

    digests_match = hmac.compare_digest
    known = world.key_of("acme")
    monkeypatch.setattr("shared.auth.keystore.hmac.compare_digest", compare)
    assert world.keys.authenticate(known)
    assert world.keys.authenticate(generate_key()) is None
    assert compared == [(32, 32), (32, 32)]


def test_the_store_is_asked_once_in_five_seconds_for_each_prefix_known_or_not(world: TenantWorld) -> None:
    known, unknown = world.key_of("acme"), generate_key()
    world.store.reads = 0
    for _ in range(50):
        assert world.keys.authenticate(known)
        assert world.keys.authenticate(unknown) is None
    assert world.store.reads == 2
    world.seconds += 5
    assert world.keys.authenticate(known)
    assert world.keys.authenticate(unknown) is None
    assert world.store.reads == 4


def test_a_revoked_key_is_refused_once_what_is_remembered_is_five_seconds_old(world: TenantWorld) -> None:
    key, other = world.key_of("acme"), world.key_of("acme")
    assert world.keys.authenticate(key)
    world.operator.revoke_key(key[4:12])
    world.seconds += 5
    with pytest.raises(KeyRevokedError):
        world.keys.authenticate(key)
    assert world.keys.authenticate(other)


def test_only_who_has_the_whole_key_learns_that_it_was_revoked(world: TenantWorld) -> None:
    key = world.key_of("acme")
    world.operator.revoke_key(key[4:12])
    assert world.keys.authenticate(f"atl_{key[4:12]}_{'x' * 43}") is None


def test_a_key_expires_at_its_time_even_within_the_five_seconds(world: TenantWorld) -> None:
    world.operator.create_tenant("acme", "standard")
    key = world.operator.create_key("acme", lifetime=timedelta(seconds=3)).text
    world.seconds += 2
    assert world.keys.authenticate(key)
    world.seconds += 1
    with pytest.raises(KeyExpiredError):
        world.keys.authenticate(key)


def test_a_rotated_key_and_its_successor_work_together_until_the_grace_is_over(world: TenantWorld) -> None:
    old = world.key_of("acme")
    new = world.operator.rotate_key(old[4:12], grace=timedelta(seconds=60)).text
    assert world.keys.authenticate(old)
    assert world.keys.authenticate(new)
    world.seconds += 60
    assert world.keys.authenticate(new)
    with pytest.raises(KeyExpiredError):
        world.keys.authenticate(old)


def test_a_suspended_tenant_is_refused_with_every_key_until_it_is_resumed(world: TenantWorld) -> None:
    keys = [world.key_of("acme") for _ in range(2)]
    world.operator.set_state("acme", TenantState.SUSPENDED)
    for key in keys:
        with pytest.raises(TenantSuspendedError):
            world.keys.authenticate(key)
    world.operator.set_state("acme", TenantState.ACTIVE)
    world.seconds += 5
    assert all(world.keys.authenticate(key) for key in keys)


def test_another_plan_and_single_values_are_seen_after_five_seconds(world: TenantWorld) -> None:
    key = world.key_of("acme")
    assert world.keys.authenticate(key)
    world.operator.set_plan("acme", "vip", {"queued": 7, "models": ["simulated"]})
    world.seconds += 5
    principal = world.keys.authenticate(key)
    assert principal is not None
    assert (principal.plan.name, principal.plan.queued, principal.plan.lane) == ("vip", 7, Lane.VIP)
    assert principal.plan.allows_model("simulated")
    assert not principal.plan.allows_model("tiny-newbie")


@pytest.mark.parametrize(("plan", "overrides"), [("gone", {}), ("standard", {"queued": "many"})])
def test_a_plan_that_this_process_does_not_know_is_our_fault_not_the_key_s(
    world: TenantWorld, plan: str, overrides: dict[str, object]
) -> None:
    key = world.key_of("acme")
    world.store.set_plan("acme", plan, overrides)
    with pytest.raises(PlanUnavailableError, match="acme"):
        world.keys.authenticate(key)


def test_while_the_store_is_away_keys_of_the_last_minutes_work_and_others_are_not_called_unknown(
    world: TenantWorld,
) -> None:
    seen, unseen = world.key_of("acme"), world.key_of("zeus")
    assert world.keys.authenticate(seen)
    world.store.available = False
    world.seconds += 100
    assert world.keys.authenticate(seen)
    assert stale(world) == 1
    for key in (unseen, generate_key()):
        with pytest.raises(KeysUnavailableError):
            world.keys.authenticate(key)
    world.seconds += 201
    with pytest.raises(KeysUnavailableError):
        world.keys.authenticate(seen)
    world.store.available = True
    world.seconds += 1
    assert world.keys.authenticate(seen)
    assert world.keys.authenticate(unseen)


def test_a_key_that_was_revoked_stays_revoked_while_the_store_is_away(world: TenantWorld) -> None:
    key = world.key_of("acme")
    world.operator.revoke_key(key[4:12])
    for seconds in (0, 60):
        world.seconds += seconds
        with pytest.raises(KeyRevokedError):
            world.keys.authenticate(key)
        world.store.available = False


def test_a_store_that_failed_is_left_alone_for_a_second(world: TenantWorld) -> None:
    world.store.available = False
    for _ in range(20):
        with pytest.raises(KeysUnavailableError):
            world.keys.authenticate(generate_key())
    assert world.store.reads == 1
    world.seconds += 1
    with pytest.raises(KeysUnavailableError):
        world.keys.authenticate(generate_key())
    assert world.store.reads == 2


def test_what_is_remembered_is_bounded_and_unknown_prefixes_push_no_key_out(
    world: TenantWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keystore, "_MOST_UNKNOWN", 10)
    key = world.key_of("acme")
    assert world.keys.authenticate(key)
    guesses = [generate_key() for _ in range(50)]
    for guess in guesses:
        assert world.keys.authenticate(guess) is None
    world.store.reads = 0
    assert world.keys.authenticate(key)
    assert world.keys.authenticate(guesses[-1]) is None
    assert world.store.reads == 0
    assert world.keys.authenticate(guesses[0]) is None
    assert world.store.reads == 1


def test_readiness_tells_a_short_absence_from_a_long_one(world: TenantWorld) -> None:
    assert (world.keys.problem(), world.keys.warning()) == (None, None)
    world.store.available = False
    world.seconds += 10
    assert (world.keys.problem(), world.keys.warning()) == (None, "switched off")
    world.seconds += 300
    assert world.keys.problem() == "switched off"
    world.store.available = True
    world.seconds += 1
    assert (world.keys.problem(), world.keys.warning()) == (None, None)


def test_a_service_that_never_reached_the_store_is_not_ready(world: TenantWorld) -> None:
    world.store.available = False
    assert world.keys.problem() == "switched off"


def test_a_record_that_cannot_be_read_is_a_store_that_fails(world: TenantWorld) -> None:
    key = world.key_of("acme")
    (record,) = world.store.keys()
    world.store.add_key(replace(record, prefix="00000000", hash="zz"))
    with pytest.raises(KeysUnavailableError):
        world.keys.authenticate(f"atl_00000000_{key[13:]}")
