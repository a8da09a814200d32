"""``python -m services.status.rebuild``: makes the view of every ended task again from the bucket alone."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from services.status.config import StatusRebuildSettings
from services.status.errors import ViewStoreError
from services.status.rebuild.bootstrap import status_rebuild
from shared.config import load_settings
from shared.domain.errors import ConfigurationError, StorageError
from shared.ids import is_task_id
from shared.lifecycle import ExitCode, StopSignal
from shared.logging import configure, get_logger

if TYPE_CHECKING:
    from collections.abc import Sequence

    from services.status.rebuild.rebuilder import Rebuilder

log = get_logger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Rebuild once. Returns the exit status, see ExitCode: INCOMPLETE where ends are missing."""
    options = _parser().parse_args(arguments)
    configure("status-rebuild")
    stop = StopSignal()
    stop.install()
    try:
        settings = load_settings(StatusRebuildSettings)
        configure("status-rebuild", level=settings.log_level, log_format=settings.log_format)
        with status_rebuild(settings) as rebuilder:
            return _run(rebuilder, stop, options.after or "")
    except ConfigurationError as exc:
        log.error("configuration_error", error_message=exc.message)  # noqa: TRY400 - the stack says nothing
        return ExitCode.CONFIGURATION
    except ViewStoreError as exc:
        log.error("view_store_unavailable", error_message=exc.message)  # noqa: TRY400 - as above
        return ExitCode.DEPENDENCY


def _run(rebuilder: Rebuilder, stop: StopSignal, after: str) -> int:
    log.info("rebuild_started", after_task=after)
    try:
        rebuilder.run(stop, after)
    except (StorageError, ViewStoreError) as exc:
        log.error("rebuild_failed", error_code=exc.code, error_message=exc.message, after_task=rebuilder.tally.after)  # noqa: TRY400 - as above
        return ExitCode.DEPENDENCY
    tally = rebuilder.tally
    said = log.info if tally.complete and not tally.unreadable else log.warning
    said(
        "rebuild_ended",
        tasks=tally.tasks,
        unreadable=tally.unreadable,
        complete=tally.complete,
        after_task=tally.after,
    )
    return ExitCode.OK if tally.complete and not tally.unreadable else ExitCode.INCOMPLETE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m services.status.rebuild", description=__doc__)
    parser.add_argument("--after", type=_task_id, metavar="TASK", help="go on behind the task of this id")
    return parser


def _task_id(text: str) -> str:
    if not is_task_id(text):
        message = f"{text!r} is not the id of a task"
        raise argparse.ArgumentTypeError(message)
    return text


if __name__ == "__main__":
    sys.exit(main())
