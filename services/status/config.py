"""The settings of the status processes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr

from shared.config import AuthSettings, BrokerSettings, LogSettings, PlanSettings, Settings, StorageSettings


class DatabaseSettings(Settings):
    """Where the view is."""

    database_url: SecretStr = Field(
        description="where task views are kept: sqlite:////<absolute path> or postgresql://user:password@host/name"
    )


class StatusApiSettings(LogSettings, AuthSettings, StorageSettings, DatabaseSettings):
    """The API process: it reads the view and the bucket, and never talks to the broker."""

    operator_key: SecretStr | None = Field(
        None, min_length=16, description="secret that opens the list of open tasks; there is none when absent"
    )


class StatusConsumerSettings(LogSettings, BrokerSettings, StorageSettings, DatabaseSettings):
    """The consumer process: it writes the view."""

    metrics_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        0, description="port of /healthz, /readyz and /metrics on loopback; 0 for none"
    )


class StatusSweeperSettings(LogSettings, BrokerSettings, StorageSettings, PlanSettings, DatabaseSettings):
    """The sweeper process: it ends tasks that wait too long and lifts those whose turn has come."""

    metrics_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        0, description="port of /healthz, /readyz and /metrics on loopback; 0 for none"
    )
    sweep_seconds: Annotated[float, Field(ge=0.1, le=60)] = Field(
        5.0, description="seconds between two looks at the tasks that wait"
    )
    sweep_tasks: Annotated[int, Field(ge=1, le=10_000)] = Field(
        200, description="how many tasks one look may expire, and how many it may lift"
    )


class RetentionSettings(Settings):
    """How long the database keeps what is done with."""

    keep_news_hours: Annotated[float, Field(gt=0, le=24 * 365)] = Field(
        24.0, description="hours for which streams can be resumed: older news are dropped"
    )
    keep_deliveries_days: Annotated[float, Field(gt=0, le=3650)] = Field(
        7.0, description="days for which callbacks that are done with stay listed"
    )
    keep_tasks_days: Annotated[float, Field(ge=2, le=3650)] = Field(
        30.0, description="days after which ended tasks move from the database to the bucket, as files under archive/"
    )


class StatusRetentionSettings(LogSettings, StorageSettings, DatabaseSettings, RetentionSettings):
    """The command that removes what is past its term."""
