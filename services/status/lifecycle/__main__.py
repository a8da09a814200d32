"""``python -m services.status.lifecycle``: deletes what tasks made when their plan's time is over, in one round."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Final

from services.status.config import StatusLifecycleSettings
from services.status.lifecycle.bootstrap import status_lifecycle
from shared.auth.errors import TenantStoreError
from shared.clock import utc_now
from shared.config import load_settings
from shared.domain.errors import ConfigurationError, StorageError
from shared.lifecycle import ExitCode, StopSignal
from shared.logging import configure, get_logger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.status.lifecycle.rounds import Lifecycle

log = get_logger(__name__)

PIECE: Final = 100


def main(arguments: Sequence[str] | None = None) -> int:
    """One round. Returns the exit status, see ExitCode: INCOMPLETE where it was stopped or could not read something."""
    parser = argparse.ArgumentParser(prog="python -m services.status.lifecycle", description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="delete nothing, only say what would be")
    options = parser.parse_args(arguments)
    configure("status-lifecycle")
    stop = StopSignal()
    stop.install()
    try:
        settings = load_settings(StatusLifecycleSettings)
        configure("status-lifecycle", level=settings.log_level, log_format=settings.log_format)
        return _round(status_lifecycle(settings, dry_run=options.dry_run), stop)
    except ConfigurationError as exc:
        log.error("configuration_error", error_message=exc.message)  # noqa: TRY400 - the stack says nothing
        return ExitCode.CONFIGURATION
    except (StorageError, TenantStoreError) as exc:
        log.error("lifecycle_failed", error_code=exc.code, error_message=exc.message)  # noqa: TRY400 - as above
        return ExitCode.DEPENDENCY


def _round(lifecycle: Lifecycle, stop: StopSignal) -> int:
    while lifecycle.run(utc_now(), PIECE):
        if stop.is_set():
            return ExitCode.INCOMPLETE
    return ExitCode.INCOMPLETE if lifecycle.tally.unreadable else ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
