"""The settings of the status processes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr

from shared.config import (
    AuthSettings,
    BrokerSettings,
    DatabaseAddress,
    LogSettings,
    MetricsSettings,
    OutboundSettings,
    PlanSettings,
    ServerSettings,
    Settings,
    StorageSettings,
    TrustSettings,
)


class DatabaseSettings(TrustSettings):
    """Where the view is."""

    database_url: DatabaseAddress = Field(
        description="where task views are kept: sqlite:////<absolute path> or postgresql://user:password@host/name"
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


class StatusApiSettings(LogSettings, ServerSettings, BrokerSettings, AuthSettings, StorageSettings, DatabaseSettings):
    """The API process: it reads the view and the bucket; through the broker it only tells of cancelled tasks."""

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
    stream_heartbeat_seconds: Annotated[float, Field(ge=0.5, le=30)] = Field(
        15.0, description="seconds of silence after which a stream is sent a comment"
    )


class StatusConsumerSettings(LogSettings, MetricsSettings, BrokerSettings, StorageSettings, DatabaseSettings):
    """The consumer process: it writes the view."""


class StatusMigrateSettings(LogSettings, DatabaseSettings):
    """The command that makes the database, or brings it up to date."""


class StatusRebuildSettings(LogSettings, StorageSettings, DatabaseSettings):
    """The rebuild: it reads the bucket and writes the view, and never talks to the broker."""

    rebuild_readers: Annotated[int, Field(ge=1, le=32)] = Field(
        16, description="outcomes that are read from the bucket at once"
    )
    rebuild_tell_hours: Annotated[float, Field(ge=0, le=720)] = Field(
        24.0, description="ends that are so many hours old at most are told again, to callbacks as well"
    )


class StatusLifecycleSettings(LogSettings, StorageSettings, PlanSettings):
    """The lifecycle command: it deletes artifacts from the bucket, as the plans say."""


class StatusSweeperSettings(
    LogSettings,
    MetricsSettings,
    BrokerSettings,
    StorageSettings,
    PlanSettings,
    DatabaseSettings,
    RetentionSettings,
):
    """The sweeper process: it ends late tasks, makes up for lost messages, and lifts tasks whose turn has come."""

    sweep_seconds: Annotated[float, Field(ge=0.1, le=60)] = Field(
        5.0, description="seconds between two looks at the tasks that wait"
    )
    sweep_silent_seconds: Annotated[float, Field(ge=1, le=3600)] = Field(
        60.0, description="seconds without news after which a task is compared with the bucket"
    )
    sweep_tasks: Annotated[int, Field(ge=1, le=10_000)] = Field(
        200, description="how many tasks one look may expire, compare with the bucket, and lift, each"
    )


class StatusWebhooksSettings(LogSettings, MetricsSettings, OutboundSettings, DatabaseSettings):
    """The process that calls clients back."""

    tenants_url: DatabaseAddress = Field(
        description="where tenants and keys are kept: sqlite:////<absolute path> or postgresql://user:password@host/name"
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


class StatusRetentionSettings(LogSettings, StorageSettings, DatabaseSettings, RetentionSettings):
    """The command that removes what is past its term."""
