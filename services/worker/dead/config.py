"""The settings of the operator's tools."""

from __future__ import annotations

from shared.config import BrokerSettings, LogSettings, StorageSettings


class OpsSettings(LogSettings, BrokerSettings, StorageSettings):
    """Where the broker and the bucket are; the broker's user is one that may read ``tasks.dead``."""
