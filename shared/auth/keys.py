"""API keys: ``atl_<prefix>_<secret>``. Only a keyed hash is stored; the prefix is public and finds the record."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.contracts.base import TenantId
from shared.domain.errors import ConfigurationError
from shared.domain.task import Lane
from shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_KEY: Final = re.compile(r"^atl_([0-9a-f]{8})_[A-Za-z0-9_-]{32,64}$")
_SECRET_BYTES: Final = 32
RELOAD_SECONDS: Final = 2.0

log = get_logger(__name__)


class KeyRecord(BaseModel):
    """One key as it is stored. ``hash`` is HMAC-SHA256 of the whole key under the pepper, in hex."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prefix: str = Field(pattern=r"^[0-9a-f]{8}$")
    hash: str = Field(pattern=r"^[0-9a-f]{64}$")
    tenant_id: TenantId
    lane: Lane = Lane.STANDARD
    name: str = ""


class KeysDocument(BaseModel):
    """The whole keys file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: tuple[KeyRecord, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Who a key belongs to."""

    tenant_id: str
    lane: Lane
    key_prefix: str


class Authenticator(Protocol):
    """Tells whose key it is."""

    def authenticate(self, key: str) -> Principal | None:
        """The key's owner, or None when there is no such key."""
        ...


def generate_key() -> str:
    """A new key, to be shown once."""
    return f"atl_{secrets.token_hex(4)}_{secrets.token_urlsafe(_SECRET_BYTES)}"


def hash_key(key: str, pepper: str) -> str:
    """The keyed hash that is stored in place of a key."""
    return hmac.new(pepper.encode(), key.encode(), hashlib.sha256).hexdigest()


def key_record(key: str, *, pepper: str, tenant_id: str, lane: Lane = Lane.STANDARD, name: str = "") -> dict[str, str]:
    """The record of a key, as JSON. Raises ValueError when the key has not the form of one."""
    match = _KEY.match(key)
    if match is None:
        message = "not an API key"
        raise ValueError(message)
    record = KeyRecord(prefix=match[1], hash=hash_key(key, pepper), tenant_id=tenant_id, lane=lane, name=name)
    return record.model_dump(mode="json")


class KeyRing:
    """Checks keys against a set of records. The comparison takes the same time whether or not the prefix is known."""

    def __init__(self, records: tuple[KeyRecord, ...], pepper: str) -> None:
        self._records = {record.prefix: record for record in records}
        self._pepper = pepper
        self._decoy = "0" * 64

    def authenticate(self, key: str) -> Principal | None:
        """See Authenticator."""
        match = _KEY.match(key)
        if match is None:
            return None
        record = self._records.get(match[1])
        expected = record.hash if record else self._decoy
        if not hmac.compare_digest(hash_key(key, self._pepper), expected) or record is None:
            return None
        return Principal(tenant_id=record.tenant_id, lane=record.lane, key_prefix=record.prefix)


def load_keyring(path: Path, pepper: str) -> KeyRing:
    """Read a keys file. Raises ConfigurationError that names the file, never a key."""
    try:
        document = KeysDocument.model_validate_json(path.read_bytes())
    except OSError as exc:
        message = f"{path}: {exc.strerror}"
        raise ConfigurationError(message) from exc
    except ValidationError as exc:
        places = ", ".join(".".join(map(str, error["loc"])) or "document" for error in exc.errors())
        message = f"{path}: not a keys file ({places})"
        raise ConfigurationError(message) from None  # the cause would show the values
    return KeyRing(document.keys, pepper)


class KeysFile:
    """An Authenticator over a keys file that is read again within seconds of a change."""

    def __init__(self, path: Path, pepper: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._pepper = pepper
        self._clock = clock
        # Looked at before it is read: a change in between is then read again and not missed.
        self._version = self._stat()
        self._ring = load_keyring(path, pepper)
        self._checked_at = clock()

    def authenticate(self, key: str) -> Principal | None:
        """See Authenticator."""
        if self._clock() - self._checked_at >= RELOAD_SECONDS:
            self._checked_at = self._clock()
            self._reload()
        return self._ring.authenticate(key)

    def _reload(self) -> None:
        version = self._stat()
        if version == self._version:
            return
        try:
            self._ring = load_keyring(self._path, self._pepper)
        except ConfigurationError as exc:
            # A half-written or broken file must not lock everybody out; the keys known so far stay in force.
            log.warning("keys_reload_failed", error_message=exc.message)
            return
        self._version = version
        log.info("keys_reloaded")

    def _stat(self) -> tuple[int, int] | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_ino
