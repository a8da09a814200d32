"""The lifecycle command's composition root: settings in, a wired lifecycle out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.status.lifecycle.keep_times import read_keep_times
from services.status.lifecycle.rounds import Lifecycle
from shared.auth.bootstrap import key_reader
from shared.auth.plans import load_plans
from shared.storage.records import TaskRecords
from shared.storage.s3 import S3Store

if TYPE_CHECKING:
    from services.status.config import StatusLifecycleSettings


def status_lifecycle(settings: StatusLifecycleSettings, *, dry_run: bool) -> Lifecycle:
    """Build everything. Raises ConfigurationError for settings that cannot be used."""
    plans = load_plans(settings.plans_file)
    reader = key_reader(settings.tenants_url.get_secret_value())
    return Lifecycle(
        records=TaskRecords(S3Store(settings)), read_times=lambda: read_keep_times(reader, plans), dry_run=dry_run
    )
