"""What callbacks are signed with: ``whsec_`` and base64, as Standard Webhooks has it. Kept readable, shown once."""

from __future__ import annotations

import base64
import secrets
from typing import Final

_PREFIX: Final = "whsec_"
_BYTES: Final = 32


def generate_secret() -> str:
    """A new secret, to be shown once."""
    return _PREFIX + base64.b64encode(secrets.token_bytes(_BYTES)).decode()


def secret_bytes(text: str) -> bytes:
    """The bytes that sign."""
    return base64.b64decode(text.removeprefix(_PREFIX))
