"""``python -m services.status.sweeper``: ends late tasks, makes up for losses, lifts those whose turn has come."""

from __future__ import annotations

import sys

from services.status.config import StatusSweeperSettings
from services.status.errors import ViewStoreError
from services.status.sweeper.bootstrap import status_sweeper
from shared.config import load_settings
from shared.domain.errors import ConfigurationError
from shared.lifecycle import ExitCode, StopSignal
from shared.logging import configure, get_logger


def main() -> int:
    """Run until told to stop. Returns the exit status, see ExitCode."""
    configure("status-sweeper")
    log = get_logger(__name__)
    stop = StopSignal()
    stop.install()
    try:
        settings = load_settings(StatusSweeperSettings)
        configure("status-sweeper", level=settings.log_level, log_format=settings.log_format)
        log.info("status_sweeper_starting")
        with status_sweeper(settings) as sweeper:
            sweeper.run(stop)
    except ConfigurationError as exc:
        log.error("configuration_error", error_message=exc.message)  # noqa: TRY400 - the stack says nothing
        return ExitCode.CONFIGURATION
    except ViewStoreError as exc:
        log.error("view_store_unavailable", error_message=exc.message)  # noqa: TRY400 - as above
        return ExitCode.DEPENDENCY
    log.info("status_sweeper_stopped", exit_code=int(stop.exit_code))
    return stop.exit_code


if __name__ == "__main__":
    sys.exit(main())
