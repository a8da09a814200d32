"""Who a request without a key belongs to: a tenant of its address's own, on the anonymous plan."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final

from shared.auth.ports import Principal
from shared.domain.plans import ANONYMOUS_PREFIX

if TYPE_CHECKING:
    from shared.domain.plans import Plan

_DIGITS: Final = 32


def anonymous_principal(plan: Plan, address: str, pepper: str) -> Principal:
    """The owner of what an address sends without a key. Rates count it as they count a key.

    The id is a keyed hash, so that it is the same on every replica and tells nobody the address.
    """
    digest = hmac.digest(pepper.encode(), f"address {address}".encode(), "sha256").hex()
    tenant_id = f"{ANONYMOUS_PREFIX}{digest[:_DIGITS]}"
    return Principal(tenant_id=tenant_id, plan=plan, key_prefix=tenant_id)
