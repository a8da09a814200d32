"""``python -m services.status.webhooks``: calls clients back."""

from __future__ import annotations

import sys

from services.status.config import StatusWebhooksSettings
from services.status.errors import ViewStoreError
from services.status.webhooks.bootstrap import webhook_sender
from shared.config import load_settings
from shared.domain.errors import ConfigurationError
from shared.lifecycle import ExitCode, StopSignal
from shared.logging import configure, get_logger


def main() -> int:
    """Run until told to stop. Returns the exit status, see ExitCode."""
    configure("status-webhooks")
    log = get_logger(__name__)
    stop = StopSignal()
    stop.install()
    try:
        settings = load_settings(StatusWebhooksSettings)
        configure("status-webhooks", level=settings.log_level, log_format=settings.log_format)
        log.info("status_webhooks_starting")
        with webhook_sender(settings) as sender:
            sender.run(stop, settings.webhook_slots)
    except ConfigurationError as exc:
        log.error("configuration_error", error_message=exc.message)  # noqa: TRY400 - the stack says nothing
        return ExitCode.CONFIGURATION
    except ViewStoreError as exc:
        log.error("view_store_unavailable", error_message=exc.message)  # noqa: TRY400 - as above
        return ExitCode.DEPENDENCY
    log.info("status_webhooks_stopped", exit_code=int(stop.exit_code))
    return stop.exit_code


if __name__ == "__main__":
    sys.exit(main())
