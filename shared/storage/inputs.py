"""Where pictures lie that tasks start from: below their tenant's prefix, under the SHA-256 of their bytes.

A client knows one as ``img_<sha256>``. Whoever uploads the same bytes again gets the same name, and the time for which
it may be named begins anew.
"""

from __future__ import annotations

import re
from typing import Final, Literal

MediaType = Literal["image/png", "image/jpeg", "image/webp"]

INPUTS: Final = "inputs/"
_SUFFIXES: Final[dict[MediaType, str]] = {"image/png": ".png", "image/jpeg": ".jpg", "image/webp": ".webp"}
_ID: Final = re.compile(r"img_([0-9a-f]{64})")


def tenant_prefix(tenant_id: str) -> str:
    """Everything that a tenant has uploaded lies below this."""
    return f"{INPUTS}{tenant_id}/"


def input_key(tenant_id: str, sha256: str, media_type: MediaType) -> str:
    """Where a tenant's picture lies."""
    return f"{tenant_prefix(tenant_id)}{sha256}{_SUFFIXES[media_type]}"


def file_suffix(media_type: MediaType) -> str:
    """How the name of such a file ends."""
    return _SUFFIXES[media_type]


def media_type_of(key: str) -> MediaType | None:
    """What the picture of a key is; None for a key of anything else."""
    return next((kind for kind, suffix in _SUFFIXES.items() if key.endswith(suffix)), None)


def image_id(sha256: str) -> str:
    """What a client knows a picture as."""
    return f"img_{sha256}"


def sha256_of(text: str) -> str | None:
    """The SHA-256 (hex) in a client's name of a picture; None for any other text."""
    found = _ID.fullmatch(text)
    return found[1] if found else None
