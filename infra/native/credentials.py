"""Secrets of a stack: made once, kept in files that only the owner may read, never on a command line."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.native.errors import StackError
from shared.auth.administration import Administration
from shared.auth.plans import load_plans
from shared.auth.store.sql import open_store
from shared.clock import utc_now

if TYPE_CHECKING:
    from pathlib import Path

    from infra.native.config import StackSettings
    from infra.native.layout import Layout

_BYTES = 24
# Plans to try the service out with. Each has a tenant of its own.
_DEMO_PLANS = ("standard", "vip")


@dataclass(frozen=True, slots=True)
class SecretStore:
    """Named secrets, one file each."""

    folder: Path

    def path(self, name: str) -> Path:
        """The file of a secret; the secret is made when it is asked for the first time."""
        path = self.folder / name
        if not path.exists():
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(path, secrets.token_urlsafe(_BYTES))
        return path

    def value(self, name: str) -> str:
        """A secret."""
        return self.path(name).read_text(encoding="utf-8").strip()

    def store(self, name: str, value: str) -> Path:
        """Keep a value that holds other secrets, such as an address with its password."""
        path = self.folder / name
        write_private(path, value)
        return path


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step; nobody else can read it at any moment."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    temporary.replace(path)


@dataclass(frozen=True, slots=True)
class DemoInfo:
    """How to reach a stack: its address, and API keys by plan."""

    base_url: str
    keys: dict[str, str]


def tenants_url(layout: Layout) -> str:
    """Where tenants and keys are kept."""
    return f"sqlite:///{layout.data('tenants') / 'tenants.db'}"


def write_demo_keys(settings: StackSettings, layout: Layout, store: SecretStore) -> None:
    """Make the tenant store, the demonstration's tenants and keys where they are missing, and ``demo.json``."""
    layout.data("tenants").mkdir(mode=0o700, parents=True, exist_ok=True)
    known = read_demo_info(layout).keys if layout.demo_file.exists() else {}
    tenants = open_store(tenants_url(layout))
    try:
        administration = Administration(
            tenants, load_plans(settings.plans_file), store.value("key-pepper"), clock=utc_now, actor="native stack"
        )
        keys = {plan: _demo_key(administration, plan, known.get(plan, "")) for plan in _DEMO_PLANS}
    finally:
        tenants.close()
    write_private(layout.demo_file, json.dumps({"base_url": settings.base_url, "keys": keys}, indent=2) + "\n")


def _demo_key(administration: Administration, plan: str, known: str) -> str:
    if administration.is_in_force(known):
        return known
    tenant = f"demo-{plan}"
    if tenant not in {each.id for each in administration.tenants()}:  # an operator may have given it another plan
        administration.create_tenant(tenant, plan)
    return administration.create_key(tenant, name=f"demo {plan}").text


def read_demo_info(layout: Layout) -> DemoInfo:
    """What ``demo.json`` says. Raises StackError when there is none or it cannot be read."""
    try:
        document = json.loads(layout.demo_file.read_text(encoding="utf-8"))
        return DemoInfo(base_url=document["base_url"], keys=document["keys"])
    except (OSError, ValueError, KeyError, TypeError) as exc:
        message = f"{layout.demo_file} is missing or broken; `make run` writes it"
        raise StackError(message) from exc
