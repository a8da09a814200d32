"""Tenants and keys for tests: in memory with a KeyStore over them, or in a real store as the admin commands do it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry

from shared.auth.administration import Administration
from shared.auth.failures import FailureBuckets
from shared.auth.keystore import CachePolicy, KeyStore
from shared.auth.plans import PlanBook, load_plans
from shared.auth.store.memory import MemoryTenantStore
from shared.auth.store.sql import open_store
from shared.clock import utc_now
from shared.http.auth import Gatekeeper
from tests.support.builders import NOW

if TYPE_CHECKING:
    from datetime import datetime

    from shared.auth.store.ports import TenantStore

PEPPER: Final = "pepper"
PLANS_FILE: Final = Path(__file__).parents[2] / "plans.toml"
PLANS: Final = load_plans(PLANS_FILE)
FAILURES_PER_MINUTE: Final = 30


def plans_with_anonymous(folder: Path) -> Path:
    """The plans file of the repository with the anonymous plan on."""
    path = folder / "plans.toml"
    path.write_text(PLANS_FILE.read_text().replace("enabled = false", "enabled = true"))
    return path


class TenantWorld:
    """A store in memory, the operator's use cases and the services' KeyStore, under one clock."""

    def __init__(self, policy: CachePolicy | None = None, plans: PlanBook = PLANS) -> None:
        self.seconds = 0.0
        self.store = MemoryTenantStore()
        self.registry = CollectorRegistry()
        self.operator = Administration(self.store, plans, PEPPER, clock=self.now, actor="test")
        self.keys = KeyStore(
            self.store, PEPPER, plans, registry=self.registry, policy=policy, clocks=(lambda: self.seconds, self.now)
        )
        self.failures = FailureBuckets(FAILURES_PER_MINUTE, registry=self.registry, clock=lambda: self.seconds)
        self.gatekeeper = Gatekeeper(
            self.keys, self.failures, trusted_proxies=1, anonymous=plans.anonymous, pepper=PEPPER
        )

    def now(self) -> datetime:
        return NOW + timedelta(seconds=self.seconds)

    def key_of(self, tenant_id: str, plan: str = "standard", **overrides: object) -> str:
        """A new key of a tenant, which is made when there is none; with overrides its plan becomes its own."""
        self.operator.ensure_tenant(tenant_id, plan)
        if overrides:
            self.operator.set_plan(tenant_id, plan, overrides)
        return self.operator.create_key(tenant_id).text


def administration(store: TenantStore) -> Administration:
    """The operator's use cases over any store, at the real time."""
    return Administration(store, PLANS, PEPPER, clock=utc_now, actor="test")


def tenant_environment(folder: Path, *tenants: str, url: str | None = None) -> tuple[dict[str, str], list[str]]:
    """A store with these tenants on the standard plan: the variables of a service that reads it, and a key of each."""
    url = url or f"sqlite:///{folder}/tenants.db"
    store = open_store(url)
    operator = administration(store)
    keys = []
    for tenant in tenants:
        operator.ensure_tenant(tenant, "standard")
        keys.append(operator.create_key(tenant).text)
    store.close()
    environment = {
        "ATELIER_TENANTS_URL": url,
        "ATELIER_PLANS_FILE": str(PLANS_FILE),
        "ATELIER_KEY_PEPPER": PEPPER,
    }
    return environment, keys
