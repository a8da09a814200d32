"""Secrets of a stack: made once, kept in files that only the owner may read, never on a command line."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from infra.native.errors import StackError
from shared.auth.keys import generate_key, key_record
from shared.domain.task import Lane

if TYPE_CHECKING:
    from pathlib import Path

    from infra.native.config import StackSettings
    from infra.native.layout import Layout

_BYTES = 24
# Who may try the service out. Each is a tenant of its own.
_DEMO_TENANTS = {"standard": Lane.STANDARD, "vip": Lane.VIP}


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
    """How to reach a stack: its address, and API keys by lane."""

    base_url: str
    keys: dict[str, str]


def write_demo_keys(settings: StackSettings, layout: Layout, store: SecretStore) -> Path:
    """Make the API keys, once, and write the services' keys file and ``demo.json``. Returns the keys file."""
    keys_file = layout.secrets / "keys.json"
    known = read_demo_info(layout).keys if layout.demo_file.exists() and keys_file.exists() else {}
    keys = {name: known.get(name) or generate_key() for name in _DEMO_TENANTS}
    pepper = store.value("key-pepper")
    records = [
        key_record(keys[name], pepper=pepper, tenant_id=_tenant_id(name), lane=lane, name=f"demo {name}")
        for name, lane in _DEMO_TENANTS.items()
    ]
    others = [record for record in _records(keys_file) if record["tenant_id"] not in _demo_tenant_ids()]
    write_private(keys_file, json.dumps({"keys": [*records, *others]}, indent=2))
    write_private(layout.demo_file, json.dumps({"base_url": settings.base_url, "keys": keys}, indent=2) + "\n")
    return keys_file


def _tenant_id(name: str) -> str:
    return f"demo-{name}"


def _demo_tenant_ids() -> set[str]:
    return {_tenant_id(name) for name in _DEMO_TENANTS}


def _records(keys_file: Path) -> list[dict[str, str]]:
    """The records of a keys file, among them keys that an operator has made. Raises StackError."""
    if not keys_file.exists():
        return []
    try:
        records: list[dict[str, str]] = json.loads(keys_file.read_text(encoding="utf-8"))["keys"]
    except (ValueError, KeyError, TypeError) as exc:
        message = f"{keys_file} is broken"
        raise StackError(message) from exc
    return records


def read_demo_info(layout: Layout) -> DemoInfo:
    """What ``demo.json`` says. Raises StackError when there is none or it cannot be read."""
    try:
        document = json.loads(layout.demo_file.read_text(encoding="utf-8"))
        return DemoInfo(base_url=document["base_url"], keys=document["keys"])
    except (OSError, ValueError, KeyError, TypeError) as exc:
        message = f"{layout.demo_file} is missing or broken; `make run` writes it"
        raise StackError(message) from exc
