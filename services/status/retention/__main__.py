"""``python -m services.status.retention``: removes what is past its term, and ends when nothing is left to remove."""

from __future__ import annotations

import sys
from typing import Final

from services.status.config import StatusRetentionSettings
from services.status.errors import ViewStoreError
from services.status.retention.bootstrap import retention
from shared.clock import utc_now
from shared.config import load_settings
from shared.domain.errors import ConfigurationError, StorageError
from shared.lifecycle import ExitCode, StopSignal
from shared.logging import configure, get_logger

ROWS: Final = 10_000


def main() -> int:
    """Run until done or told to stop. Returns the exit status, see ExitCode."""
    configure("status-retention")
    log = get_logger(__name__)
    stop = StopSignal()
    stop.install()
    try:
        settings = load_settings(StatusRetentionSettings)
        configure("status-retention", level=settings.log_level, log_format=settings.log_format)
        with retention(settings) as rules:
            while not stop.is_set():
                removed = rules.run(utc_now(), ROWS)
                if max(removed.news, removed.deliveries, removed.tasks) < ROWS:
                    break
    except ConfigurationError as exc:
        log.error("configuration_error", error_message=exc.message)  # noqa: TRY400 - the stack says nothing
        return ExitCode.CONFIGURATION
    except (ViewStoreError, StorageError) as exc:
        log.error("retention_failed", error_code=exc.code, error_message=exc.message)  # noqa: TRY400 - as above
        return ExitCode.DEPENDENCY
    return stop.exit_code


if __name__ == "__main__":
    sys.exit(main())
