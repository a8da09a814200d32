"""``python -m services.worker``: the parent process of one worker. It never imports torch."""

from __future__ import annotations

import sys

from services.worker.bootstrap import worker
from services.worker.config import WorkerSettings
from services.worker.errors import WorkFolderError
from services.worker.gpu import DeviceUnavailableError
from shared.config import load_settings
from shared.domain.errors import ConfigurationError, StorageError
from shared.lifecycle import ExitCode, StopSignal
from shared.logging import configure, get_logger


def main() -> int:
    """Run until told to stop. Returns the exit status, see ExitCode."""
    configure("worker")
    log = get_logger(__name__)
    stop = StopSignal()
    stop.install()
    try:
        settings = load_settings(WorkerSettings)
        configure("worker", level=settings.log_level, log_format=settings.log_format)
        log.info("worker_starting", worker=settings.worker_id, model=settings.worker_model, device=settings.device)
        with worker(settings, stop) as loop:
            loop.run(stop)
    except ConfigurationError as exc:
        log.error("configuration_error", error_message=exc.message)  # noqa: TRY400 - the stack says nothing
        return ExitCode.CONFIGURATION
    except (StorageError, DeviceUnavailableError, WorkFolderError) as exc:
        log.error("dependency_unavailable", error_code=exc.code, error_message=exc.message)  # noqa: TRY400 - as above
        return ExitCode.DEPENDENCY
    log.info("worker_stopped", exit_code=int(stop.exit_code))
    return stop.exit_code


if __name__ == "__main__":
    sys.exit(main())
