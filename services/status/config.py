"""The settings of the status processes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr

from shared.config import AuthSettings, BrokerSettings, LogSettings, PlanSettings, StorageSettings


class StatusApiSettings(LogSettings, AuthSettings, StorageSettings):
    """The API process: it reads the view and the bucket, and never talks to the broker."""

    database_url: str = Field(description="where task views are kept: sqlite:////<absolute path>")
    operator_key: SecretStr | None = Field(
        None,
        min_length=16,
        description="secret that opens the lists and streams of all tenants; there are none when absent",
    )
    max_streams: Annotated[int, Field(ge=1, le=10_000)] = Field(
        6000, description="open streams of events that a process bears"
    )
    max_streams_per_tenant: Annotated[int, Field(ge=1, le=10_000)] = Field(
        100, description="open streams of events of one tenant in a process"
    )
    stream_heartbeat_seconds: Annotated[float, Field(ge=0.5, le=60)] = Field(
        15.0, description="seconds of silence after which a stream is sent a comment"
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
