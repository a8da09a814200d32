"""``python -m services.status.consumer``: applies events to the view and settles what work queues return."""

from __future__ import annotations

import sys

from services.status.config import StatusConsumerSettings
from services.status.consumer.bootstrap import status_consumer
from services.status.consumer.loops import run_together
from services.status.errors import ViewStoreError
from shared.config import load_settings
from shared.domain.errors import ConfigurationError
from shared.lifecycle import ExitCode, StopSignal, settle_memory
from shared.logging import configure, get_logger


def main() -> int:
    """Run until told to stop. Returns the exit status, see ExitCode."""
    configure("status-consumer")
    log = get_logger(__name__)
    stop = StopSignal()
    stop.install()
    try:
        settings = load_settings(StatusConsumerSettings)
        configure("status-consumer", level=settings.log_level, log_format=settings.log_format)
        log.info("status_consumer_starting")
        with status_consumer(settings) as loops:
            settle_memory()
            run_together(loops, stop)
    except ConfigurationError as exc:
        log.error("configuration_error", error_message=exc.message)  # noqa: TRY400 - the stack says nothing
        return ExitCode.CONFIGURATION
    except ViewStoreError as exc:
        log.error("view_store_unavailable", error_message=exc.message)  # noqa: TRY400 - as above
        return ExitCode.DEPENDENCY
    log.info("status_consumer_stopped", exit_code=int(stop.exit_code))
    return stop.exit_code


if __name__ == "__main__":
    sys.exit(main())
