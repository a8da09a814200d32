"""What a tenant may do, by its plan. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from shared.domain.keeping import DEFAULT_KEEP_DAYS

if TYPE_CHECKING:
    from shared.domain.task import Lane

# The plan of requests without a key, counted by address. No tenant can have it.
ANONYMOUS: Final = "anonymous"
# How the ids begin of the tenants that its addresses are. No other tenant's id does.
ANONYMOUS_PREFIX: Final = f"{ANONYMOUS}-"


class Sharing(StrEnum):
    """Who else's results a tenant's request may be answered with, and may be answered with its own."""

    OFF = "off"
    TENANT = "tenant"
    SHARED = "shared"


def is_anonymous(tenant_id: str) -> bool:
    """Whether a tenant is an address without a key."""
    return tenant_id.startswith(ANONYMOUS_PREFIX)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """At most so many requests in so many seconds."""

    requests: int
    seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Limits of a tenant, those of its own among them.

    ``rates`` count each key (each address on the anonymous plan), shortest window first; everything else counts the
    tenant. ``weight`` is its share beside other tenants'. A task may wait ``start_within`` seconds for its start and
    must end ``finish_within`` seconds after its submit; None: the service's own bound. ``models`` is None where every
    model is allowed. ``results`` says whose earlier results may answer a request; its own are kept for
    ``keep_results_days`` after a task's end.
    """

    name: str
    lane: Lane
    weight: float
    rates: tuple[Rate, ...]
    concurrency: int
    queued: int
    gpu_seconds_per_day: float
    max_pixels: int
    max_frames: int
    models: frozenset[str] | None
    start_within: float | None = None
    finish_within: float | None = None
    results: Sharing = Sharing.TENANT
    keep_results_days: int = DEFAULT_KEEP_DAYS

    def allows_model(self, model: str) -> bool:
        """Whether a model belongs to the plan."""
        return self.models is None or model in self.models
