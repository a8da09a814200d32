"""``python -m services.status.migrate``: makes the status database, or brings it up to date, and ends.

For stacks whose processes may not change the schema; elsewhere whichever starts first does it.
"""

from __future__ import annotations

import sys

from services.status.config import StatusMigrateSettings
from services.status.errors import ViewStoreError
from services.status.store.database import open_database
from shared.config import load_settings
from shared.domain.errors import ConfigurationError
from shared.lifecycle import ExitCode
from shared.logging import configure, get_logger


def main() -> int:
    """Migrate. Returns the exit status, see ExitCode."""
    configure("status-migrate")
    log = get_logger(__name__)
    try:
        settings = load_settings(StatusMigrateSettings)
        configure("status-migrate", level=settings.log_level, log_format=settings.log_format)
        open_database(settings.database_url.get_secret_value()).close()
    except ConfigurationError as exc:
        log.error("configuration_error", error_message=exc.message)  # noqa: TRY400 - the stack says nothing
        return ExitCode.CONFIGURATION
    except ViewStoreError as exc:
        log.error("view_store_unavailable", error_message=exc.message)  # noqa: TRY400 - as above
        return ExitCode.DEPENDENCY
    log.info("status_database_migrated")
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main())
