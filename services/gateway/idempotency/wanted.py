"""What tells one submission from another: the tenant, the client's key, and the body."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import orjson

from services.gateway.idempotency.errors import InvalidIdempotencyKeyError
from shared.http.errors import FieldError

if TYPE_CHECKING:
    from collections.abc import Mapping

KEY_HEADER: Final = "Idempotency-Key"
# The openai SDK and those generated like it count their retries of a request here.
RETRY_HEADER: Final = "x-stainless-retry-count"
_KEY: Final = re.compile(r"[\x20-\x7e]{1,255}")
_QUOTED: Final = re.compile(r'"((?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"')
_RETRY: Final = re.compile(r"0*[1-9][0-9]{0,8}")


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A submission as it came: its body's JSON, and the path that it was sent to.

    ``repeatable``: without a key it still counts as the same as an equal one before it, because its seed is fixed or
    its client says that it is a retry. ``counted``: its client counts retries, so a retry of it would say so.
    ``task_id`` is the id that its task gets however often it is sent; None for a new one.
    """

    tenant_id: str
    key: str | None
    path: str
    document: Mapping[str, Any]
    repeatable: bool
    counted: bool
    task_id: str | None = None

    @cached_property
    def digest(self) -> str:
        """Of what was asked and where, not of what it resolves to. Most submissions are never compared with others."""
        return digest(self.path, self.document)

    @property
    def with_image(self) -> bool:
        """Whether an image has to be fetched or looked for first."""
        return self.document.get("image") is not None

    @property
    def name(self) -> str:
        """The name of its record, which shows nothing of the key and is of this tenant alone."""
        kind, text = ("body", self.digest) if self.key is None else ("key", self.key)
        owned = f"{self.tenant_id}\0{text}"
        return f"{kind}:{hashlib.sha256(owned.encode()).hexdigest()}"


def wanted(
    tenant_id: str, path: str, document: Mapping[str, Any], *, key_header: str | None, retry_header: str | None
) -> Wanted:
    """Read a request. ``document`` is its body's JSON. Raises InvalidIdempotencyKeyError."""
    retried = _RETRY.fullmatch(retry_header or "") is not None
    return Wanted(
        tenant_id=tenant_id,
        key=read_key(key_header),
        path=path,
        document=document,
        repeatable=retried or document.get("seed") is not None,
        counted=retry_header is not None,
    )


def read_key(header: str | None) -> str | None:
    """The client's key: the header as it is, or the content of a quoted string (RFC 9651). None without a header."""
    if header is None:
        return None
    key: str | None = header
    if header.startswith('"'):
        quoted = _QUOTED.fullmatch(header)
        key = re.sub(r'\\(["\\])', r"\1", quoted[1]) if quoted else None
    if key is None or _KEY.fullmatch(key) is None:
        message = f"{KEY_HEADER} must be 1 to 255 printable ASCII characters, in double quotes or without"
        raise InvalidIdempotencyKeyError(message, FieldError(message=message, field=KEY_HEADER))
    return key


def digest(path: str, document: Mapping[str, Any]) -> str:
    """SHA-256 (hex) over the path and the JSON with its fields in order, whatever its spaces were."""
    try:
        text = orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError:  # it reads deeper nesting than it writes
        text = repr(document).encode()
    return hashlib.sha256(path.encode() + b"\0" + text).hexdigest()
