"""The plans, as a gateway can put them in force."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.auth.plans import load_plans
from shared.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from services.gateway.config import GatewaySettings
    from shared.auth.plans import PlanBook


def load_usable_plans(settings: GatewaySettings) -> PlanBook:
    """Read the plans file. Raises ConfigurationError, also for strangers whom nothing would count."""
    plans = load_plans(settings.plans_file)
    if plans.anonymous is not None and settings.redis_url is None:
        message = f"ATELIER_PLANS_FILE: {settings.plans_file}: the plan anonymous is on, which needs ATELIER_REDIS_URL"
        raise ConfigurationError(message)
    return plans
