"""The RateLimit fields: what a plan's rates are, and what is left of them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.gateway.admission.ports import Window


def rate_limit_fields(windows: Sequence[Window]) -> dict[str, str]:
    """``RateLimit-Policy`` and ``RateLimit`` (draft-ietf-httpapi-ratelimit-headers-11), a list member for each window.

    ``q`` is the quota, ``w`` its window and ``t`` the time until it is whole again, in seconds; ``r`` is what is left.
    """
    if not windows:
        return {}
    policy = (f'"{window.rate.seconds}s";q={window.rate.requests};w={window.rate.seconds}' for window in windows)
    state = (f'"{window.rate.seconds}s";r={window.remaining};t={math.ceil(window.reset_seconds)}' for window in windows)
    return {"RateLimit-Policy": ", ".join(policy), "RateLimit": ", ".join(state)}
