"""The gateway's settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, SecretStr, model_validator

from services.gateway.images.limits import ImageLimits
from shared.config import (
    AuthSettings,
    BrokerSettings,
    DatabaseAddress,
    LogSettings,
    MetricsSettings,
    ModelSettings,
    OutboundSettings,
    RedisAddress,
    ServerSettings,
    Settings,
    StorageSettings,
    TrustSettings,
)

if TYPE_CHECKING:
    from typing import Self


class ImageSettings(Settings):
    """Which input images are taken."""

    max_image_bytes: Annotated[int, Field(gt=0, le=2**27)] = Field(
        10 * 1024**2, description="largest input image; the entrance bounds uploads as well"
    )
    max_image_side: Annotated[int, Field(gt=0, le=65535)] = Field(8192, description="most pixels a side of it")
    max_image_pixels: Annotated[int, Field(gt=0)] = Field(40_000_000, description="most pixels of it in all")
    max_kept_images: Annotated[int, Field(gt=0)] = Field(1000, description="input images that a tenant may have kept")
    image_places: Annotated[int, Field(gt=0)] = Field(
        8, description="input images that a process handles at once, each in memory"
    )
    image_urls: Literal["https", "any", "off"] = Field(
        "https", description="URLs that input images are fetched from: https alone, any (http as well), or off"
    )
    image_fetch_seconds: Annotated[float, Field(gt=0, le=20)] = Field(
        10.0, description="seconds in which an image must have come from its URL"
    )

    @property
    def image_limits(self) -> ImageLimits:
        """The bounds, as the intake has them."""
        return ImageLimits(
            most_bytes=self.max_image_bytes,
            most_side=self.max_image_side,
            most_pixels=self.max_image_pixels,
            most_kept=self.max_kept_images,
            places=self.image_places,
        )


class GatewaySettings(
    LogSettings,
    ServerSettings,
    BrokerSettings,
    AuthSettings,
    ModelSettings,
    StorageSettings,
    OutboundSettings,
    ImageSettings,
):
    """One gateway process."""

    default_model: str | None = Field(
        None, description="model of requests that name none; the first of ATELIER_MODELS when absent"
    )
    publish_timeout_seconds: Annotated[float, Field(gt=0, le=60)] = Field(
        5.0, description="how long a submit waits for the broker's confirms"
    )
    start_within_seconds: Annotated[float, Field(gt=0)] = Field(
        3600.0, description="a task that has not started by then expires"
    )
    finish_within_seconds: Annotated[float, Field(gt=0)] = Field(
        7200.0, description="a task that has not finished by then fails"
    )
    max_run_seconds: Annotated[float, Field(ge=120, lt=72000)] = Field(
        21600.0, description="longest run of a task; stays clear of the broker's consumer_timeout of 24 h"
    )
    redis_url: RedisAddress | None = Field(
        None,
        description="redis(s)://:password@host:port/db of limits and idempotency keys; in force only when set",
    )
    redis_timeout_seconds: Annotated[float, Field(gt=0, le=1)] = Field(
        0.05, description="how long a submit waits for the ledger before this process decides alone"
    )
    repeat_window_seconds: Annotated[float, Field(ge=0, le=3600)] = Field(
        10.0, description="an equal request without an Idempotency-Key counts as a repeat for so long; 0 for never"
    )
    max_waiting: Annotated[int, Field(gt=0)] = Field(1000, description="tasks that may wait for a model")
    vip_reserve: Annotated[int, Field(ge=0)] = Field(
        100, description="places among those that only the VIP lane may take"
    )
    max_body_bytes: Annotated[int, Field(gt=0)] = Field(262144, description="largest request body")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.model_ids:
            message = "ATELIER_MODELS names no model"
            raise ValueError(message)
        if self.default_model is not None and self.default_model not in self.model_ids:
            message = f"ATELIER_DEFAULT_MODEL {self.default_model!r} is not among ATELIER_MODELS"
            raise ValueError(message)
        if self.vip_reserve >= self.max_waiting:
            message = "ATELIER_VIP_RESERVE must be less than ATELIER_MAX_WAITING"
            raise ValueError(message)
        return self


class LedgerSettings(LogSettings, MetricsSettings, BrokerSettings):
    """The process that keeps admission's ledger."""

    redis_url: RedisAddress = Field(description="redis(s)://:password@host:port/db of the admission ledger")
    status_url: str | None = Field(
        None, pattern="^https?://", description="status API that tells the open tasks after a loss of Redis"
    )
    operator_key: SecretStr | None = Field(None, description="secret that opens the status API's list of open tasks")
    reconcile_seconds: Annotated[float, Field(ge=1)] = Field(
        600.0, description="how often the ledger is compared with the open tasks when nothing was lost"
    )

    @model_validator(mode="after")
    def _together(self) -> Self:
        if (self.status_url is None) != (self.operator_key is None):
            message = "ATELIER_STATUS_URL and ATELIER_OPERATOR_KEY belong together"
            raise ValueError(message)
        return self


class AdminSettings(TrustSettings, OutboundSettings):
    """The admin commands. Only making a key needs the pepper."""

    tenants_url: DatabaseAddress = Field(
        description="where tenants and keys are kept: sqlite:////<absolute path> or postgresql://user:password@host/name"
    )
    key_pepper: SecretStr | None = Field(None, description="secret that API keys are hashed with")
    plans_file: Path = Field(Path("plans.toml"), description="what each plan allows")
