"""Whose request it is: ``Authorization: Bearer <key>`` or ``X-API-Key: <key>``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import request

from shared.http.errors import UnauthorizedError
from shared.logging import bind

if TYPE_CHECKING:
    from shared.auth.ports import Authenticator, Principal


def authenticate(authenticator: Authenticator) -> Principal:
    """The owner of the current request's API key. Raises UnauthorizedError, and what the authenticator raises."""
    key = _key()
    if not key:
        message = "no API key: send Authorization: Bearer <key> or X-API-Key: <key>"
        raise UnauthorizedError(message)
    principal = authenticator.authenticate(key)
    if principal is None:
        message = "the API key is not known"
        raise UnauthorizedError(message)
    bind(tenant_id=principal.tenant_id)
    return principal


def _key() -> str:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    return request.headers.get("X-API-Key", "").strip()
