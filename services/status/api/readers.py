"""Who may see tasks without naming one: a tenant with its key, or an operator."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flask import request

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.http.auth import Gatekeeper


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """Who asks. ``tenant_id`` is None for an operator, who sees all; ``in_force`` asks again, much later."""

    tenant_id: str | None
    in_force: Callable[[], bool]


class Readers:
    """Tells who asks. Without a key nobody has a list: of strangers' tasks only their ids are known."""

    def __init__(self, gatekeeper: Gatekeeper, operator_key: str | None) -> None:
        self._gatekeeper = gatekeeper
        self._operator = f"Bearer {operator_key}".encode() if operator_key else None

    def reader(self) -> Reader:
        """Who sends the current request. Raises what the gatekeeper raises."""
        given = request.headers.get("Authorization", "").encode()
        if self._operator is not None and hmac.compare_digest(given, self._operator):
            return Reader(tenant_id=None, in_force=lambda: True)
        principal = self._gatekeeper.authenticate()
        return Reader(tenant_id=principal.tenant_id, in_force=self._gatekeeper.recheck(principal))
