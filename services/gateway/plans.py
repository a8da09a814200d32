"""The plans, as a gateway puts them in force."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.gateway.errors import ExceedsPlanError
from shared.auth.plans import load_plans
from shared.domain.errors import ConfigurationError
from shared.http.errors import FieldError

if TYPE_CHECKING:
    from services.gateway.config import GatewaySettings
    from shared.auth.plans import PlanBook
    from shared.contracts.task import Params
    from shared.domain.plans import Plan


def load_usable_plans(settings: GatewaySettings) -> PlanBook:
    """Read the plans file. Raises ConfigurationError, also for strangers whom nothing would count."""
    plans = load_plans(settings.plans_file)
    if plans.anonymous is not None and settings.redis_url is None:
        message = f"ATELIER_PLANS_FILE: {settings.plans_file}: the plan anonymous is on, which needs ATELIER_REDIS_URL"
        raise ConfigurationError(message)
    return plans


def refuse_beyond_plan(params: Params, plan: Plan) -> None:
    """Raise ExceedsPlanError for a picture that is larger, or longer, than the plan allows."""
    if params.width * params.height > plan.max_pixels:
        message = f"the plan {plan.name} allows {plan.max_pixels} pixels"
        raise ExceedsPlanError(message, FieldError(field="width", message=message))
    if params.num_frames > plan.max_frames:
        message = f"the plan {plan.name} allows {plan.max_frames} frames"
        raise ExceedsPlanError(message, FieldError(field="num_frames", message=message))
