"""API keys: ``atl_<prefix>_<secret>``. Only a keyed hash is stored; the prefix is public and finds the record."""

from __future__ import annotations

import hmac
import re
import secrets
from typing import Final

_KEY: Final = re.compile(r"atl_([0-9a-f]{8})_[A-Za-z0-9_-]{32,64}")
_SECRET_BYTES: Final = 32


def generate_key() -> str:
    """A new key, to be shown once."""
    return f"atl_{secrets.token_hex(4)}_{secrets.token_urlsafe(_SECRET_BYTES)}"


def prefix_of(text: str) -> str | None:
    """The prefix of a key, or None for what has not the form of one."""
    match = _KEY.fullmatch(text)
    return match[1] if match else None


def hash_key(key: str, pepper: str) -> bytes:
    """The keyed hash that is stored in place of a key: HMAC-SHA256 of the whole key."""
    return hmac.digest(pepper.encode(), key.encode(), "sha256")
