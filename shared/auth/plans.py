"""The plans file: what each plan allows, and what a tenant may have in place of it."""

from __future__ import annotations

import tomllib
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from shared.auth.errors import PlanUnavailableError
from shared.contracts.base import ModelId, TenantId
from shared.domain.errors import ConfigurationError
from shared.domain.keeping import DEFAULT_KEEP_DAYS
from shared.domain.plans import ANONYMOUS, Plan, Rate, Sharing
from shared.domain.task import Lane

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Count = Annotated[int, Field(ge=1, le=1_000_000_000)]
Within = Annotated[float, Field(ge=1, le=604_800)]


class PlanEntry(BaseModel):
    """One plan as it is written. Names are public: a tenant's overrides use them as well."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    enabled: bool = Field(default=True, description="a plan that is off is as if it were not there")
    lane: Annotated[Lane, Field(strict=False)]
    weight: Annotated[float, Field(gt=0, le=1000)] = Field(description="share of the capacity, against other tenants'")
    requests_per_second: Count | None = None
    requests_per_minute: Count | None = None
    requests_per_hour: Count | None = None
    concurrency: Count = Field(description="tasks that run at once")
    queued: Count = Field(description="tasks that wait")
    gpu_seconds_per_day: Annotated[float, Field(gt=0)]
    max_pixels: Count = Field(description="width x height")
    max_frames: Count
    models: Literal["*"] | list[ModelId] = "*"
    start_within: Within | None = Field(default=None, description="seconds that a task may wait for its start")
    finish_within: Within | None = Field(default=None, description="seconds from submit to end")
    results: Annotated[Sharing, Field(strict=False)] = Field(
        default=Sharing.TENANT, description="whose earlier results may answer a request"
    )

    keep_results_days: Annotated[int, Field(ge=1, le=3650)] = Field(
        default=DEFAULT_KEEP_DAYS, description="days after its end for which a task's artifacts are kept"
    )

    def plan(self, name: str) -> Plan:
        """The plan as the services use it."""
        windows = ((self.requests_per_second, 1), (self.requests_per_minute, 60), (self.requests_per_hour, 3600))
        return Plan(
            name=name,
            lane=self.lane,
            weight=self.weight,
            rates=tuple(Rate(requests=most, seconds=seconds) for most, seconds in windows if most is not None),
            concurrency=self.concurrency,
            queued=self.queued,
            gpu_seconds_per_day=self.gpu_seconds_per_day,
            max_pixels=self.max_pixels,
            max_frames=self.max_frames,
            models=None if self.models == "*" else frozenset(self.models),
            start_within=self.start_within,
            finish_within=self.finish_within,
            results=self.results,
            keep_results_days=self.keep_results_days,
        )


_DOCUMENT = TypeAdapter(dict[TenantId, PlanEntry])


class PlanBook:
    """Every plan that is on, by name."""

    def __init__(self, entries: Mapping[str, PlanEntry]) -> None:
        self._entries = {name: entry for name, entry in entries.items() if entry.enabled}
        self._plans = {name: entry.plan(name) for name, entry in self._entries.items()}

    @property
    def anonymous(self) -> Plan | None:
        """The plan of requests without a key, where they are let in at all."""
        return self._plans.get(ANONYMOUS)

    @property
    def names(self) -> tuple[str, ...]:
        """The plans that a tenant may have."""
        return tuple(name for name in self._plans if name != ANONYMOUS)

    def resolve(self, name: str, overrides: Mapping[str, Any]) -> Plan:
        """A tenant's plan. Raises PlanUnavailableError that names what is wrong."""
        if name not in self.names:
            message = f"there is no plan {name!r}; there are {', '.join(self.names)}"
            raise PlanUnavailableError(message)
        if not overrides:
            return self._plans[name]
        try:
            # As JSON, since that is what overrides are stored as: a list is a list and a lane is a word.
            return PlanEntry.model_validate({**self._entries[name].model_dump(mode="json"), **overrides}).plan(name)
        except ValidationError as exc:
            message = f"overrides of plan {name!r}: {_reasons(exc)}"
            raise PlanUnavailableError(message) from exc


def load_plans(path: Path) -> PlanBook:
    """Read a plans file. Raises ConfigurationError that names the file and the entry."""
    try:
        with path.open("rb") as file:
            book = PlanBook(_DOCUMENT.validate_python(tomllib.load(file)))
    except OSError as exc:
        message = f"ATELIER_PLANS_FILE: {path}: {exc.strerror}"
        raise ConfigurationError(message) from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        message = f"ATELIER_PLANS_FILE: {path}: {exc}"
        raise ConfigurationError(message) from exc
    except ValidationError as exc:
        message = f"ATELIER_PLANS_FILE: {path}: {_reasons(exc)}"
        raise ConfigurationError(message) from exc
    if not book.names:
        message = f"ATELIER_PLANS_FILE: {path}: no plan that a tenant could have"
        raise ConfigurationError(message)
    return book


def _reasons(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()[:5])
