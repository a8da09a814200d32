"""The settings of the status processes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr

from shared.config import (
    AuthSettings,
    BrokerSettings,
    LogSettings,
    OutboundSettings,
    PlanSettings,
    StorageSettings,
)


class StatusApiSettings(LogSettings, AuthSettings, StorageSettings):
    """The API process: it reads the view and the bucket, and never talks to the broker."""

    database_url: str = Field(description="where task views are kept: sqlite:////<absolute path>")
    operator_key: SecretStr | None = Field(
        None, min_length=16, description="secret that opens the list of open tasks; there is none when absent"
    )


class StatusConsumerSettings(LogSettings, BrokerSettings, StorageSettings):
    """The consumer process: it writes the view."""

    database_url: str = Field(description="where task views are kept: sqlite:////<absolute path>")
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        0, description="port of /healthz, /readyz and /metrics on loopback; 0 for none"
    )


class StatusSweeperSettings(LogSettings, BrokerSettings, StorageSettings, PlanSettings):
    """The sweeper process: it ends tasks that wait too long and lifts those whose turn has come."""

    database_url: str = Field(description="where task views are kept: sqlite:////<absolute path>")
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        0, description="port of /healthz, /readyz and /metrics on loopback; 0 for none"
    )
    sweep_seconds: Annotated[float, Field(ge=0.1, le=60)] = Field(
        5.0, description="seconds between two looks at the tasks that wait"
    )
    sweep_tasks: Annotated[int, Field(ge=1, le=10_000)] = Field(
        200, description="how many tasks one look may expire, and how many it may lift"
    )


class StatusWebhooksSettings(LogSettings, OutboundSettings):
    """The process that calls clients back."""

    database_url: str = Field(description="where task views are kept: sqlite:////<absolute path>")
    tenants_url: SecretStr = Field(
        description="where tenants and keys are kept: sqlite:////<absolute path> or postgresql://user:password@host/name"
    )
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        0, description="port of /healthz, /readyz and /metrics on loopback; 0 for none"
    )
    webhook_slots: Annotated[int, Field(ge=1, le=1000)] = Field(
        64, description="callbacks under way at once; a quarter of them for a tenant, and for a host"
    )
    webhook_per_host: Annotated[int, Field(ge=1, le=100)] = Field(
        4, description="callbacks under way at once of one tenant to one host"
    )
    webhook_connect_seconds: Annotated[float, Field(gt=0, le=60)] = Field(
        5.0, description="how long a receiver may take to accept a connection"
    )
    webhook_timeout_seconds: Annotated[float, Field(gt=0, le=60)] = Field(
        15.0, description="how long a receiver may take for everything"
    )
    webhook_look_seconds: Annotated[float, Field(ge=0.05, le=60)] = Field(
        0.5, description="how often is looked for callbacks that are due"
    )
