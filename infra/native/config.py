"""Settings of the native stack: ``ATELIER_NATIVE_*`` variables, or arguments of the command line."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from shared.contracts.base import ModelId
from shared.domain.errors import ConfigurationError
from shared.messaging.topology import QueueType

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX: Final = "ATELIER_NATIVE_"
SERVICE_PREFIX: Final = "ATELIER_"
CHECKOUT: Final = Path(__file__).parents[2]

# Debian keeps servers where a user's PATH does not lead.
SYSTEM_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# All that a program of the stack gets from the environment of whoever started it.
_PASSED_ON: Final = ("LANG", "LC_ALL", "TZ", "TMPDIR", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")


class StackSettings(BaseModel):
    """One stack. Two with other folders and ports do not know of each other."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_dir: Path = Field(CHECKOUT / ".run", description="folder for everything that the stack writes")
    base_port: Annotated[int, Field(ge=1024, le=50000)] = Field(
        18100, description="first of the 80 private ports; one more port lies 10078 above it"
    )
    public_port: Annotated[int, Field(ge=1, le=65535)] = Field(8080, description="port of the public entrance")
    workers: tuple[ModelId, ...] = Field(
        ("tiny-newbie", "simulated"), min_length=1, max_length=20, description="model of each worker, comma-separated"
    )
    gateways: Annotated[int, Field(ge=1, le=10)] = Field(2, description="number of gateway processes")
    status_apis: Annotated[int, Field(ge=1, le=10)] = Field(2, description="number of status API processes")
    status_consumers: Annotated[int, Field(ge=1, le=5)] = Field(1, description="number of status consumer processes")
    status_database: SecretStr | None = Field(
        None, description="postgresql:// address of the status database; none for SQLite in the stack's own folder"
    )
    queue_type: QueueType = Field(QueueType.CLASSIC, description="what the broker's durable queues are")
    plans_file: Path = Field(CHECKOUT / "plans.toml", description="what each plan allows")
    environment: dict[str, str] = Field(
        default_factory=dict, description="further variables of the services; those of the stack itself come first"
    )

    @field_validator("workers", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("run_dir", "plans_file")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.resolve()

    @property
    def models(self) -> tuple[str, ...]:
        """The models that are served, each once."""
        return tuple(dict.fromkeys(self.workers))

    @property
    def base_url(self) -> str:
        """The public entrance."""
        return f"http://127.0.0.1:{self.public_port}"


def load_stack_settings(environ: Mapping[str, str] | None = None, **given: object) -> StackSettings:
    """Settings from the environment; a ``given`` value that is not None comes first.

    Other ``ATELIER_`` variables are handed on to the services. Raises ConfigurationError that names what is wrong.
    """
    source = os.environ if environ is None else environ
    values: dict[str, Any] = {
        name: source[variable]
        for name in StackSettings.model_fields
        if name != "environment" and source.get(variable := f"{PREFIX}{name.upper()}")
    }
    values["environment"] = {
        name: value for name, value in source.items() if name.startswith(SERVICE_PREFIX) and not name.startswith(PREFIX)
    }
    values |= {name: value for name, value in given.items() if value is not None}
    try:
        return StackSettings.model_validate(values)
    except ValidationError as exc:
        reasons = "; ".join(f"{PREFIX}{str(error['loc'][0]).upper()}: {error['msg']}" for error in exc.errors())
        raise ConfigurationError(reasons) from exc


def base_environment() -> dict[str, str]:
    """What every program of the stack finds in its environment."""
    kept = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {"LANG": "C.UTF-8", **kept, "PATH": f"{Path(sys.prefix) / 'bin'}:{SYSTEM_PATH}"}
