"""``python -m services.worker.ops dead list|show|replay|drop``: what operators do with the tasks that were given up.

Results go to standard output, one line for each message (JSON lines with ``--json``); logs, and with them the audit
events, to standard error. Exit status: 0 done; 1 there is no such message; 2 wrong usage; 3 some were refused, the
others are done; 69 the broker or the bucket is away; 78 a setting is wrong; 130 interrupted; 141 the output is not read
to its end. What was done before an error stays done, and every command may be repeated.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from datetime import datetime, timedelta
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from services.worker.dead import render
from services.worker.dead.bootstrap import dead_letters
from services.worker.dead.config import OpsSettings
from services.worker.dead.parked import Filter
from services.worker.dead.usecases import Fate
from shared.clock import utc_now
from shared.config import load_settings
from shared.domain.errors import BrokerError, ConfigurationError, StorageError
from shared.lifecycle import ExitCode
from shared.logging import configure, get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from typing import TextIO

    from services.worker.dead.parked import Parked
    from services.worker.dead.usecases import DeadLetters, Result

log = get_logger(__name__)

_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_LONGEST_AGE: Final = timedelta(days=36_500)  # what lies before the year 1 is no date
_AGE: Final = re.compile(r"([0-9]{1,6})([smhd])")


class OpsExit(IntEnum):
    """Exit statuses of this command line alone; see ExitCode for the others."""

    NONE_FOUND = 1
    REFUSED = 3
    INTERRUPTED = 130
    UNREAD = 141


def main(arguments: Sequence[str], *, connect: Callable[[OpsSettings], AbstractContextManager[DeadLetters]]) -> int:
    """Run one command. Returns the exit status."""
    options = _options(arguments)
    configure("operator", stream=sys.stderr)
    try:
        settings = load_settings(OpsSettings)
        # Never above info: that is the level of audit events.
        level = "debug" if settings.log_level == "debug" else "info"
        configure("operator", level=level, log_format=settings.log_format, stream=sys.stderr)
        with connect(settings) as letters:
            command: Callable[[Command], int] = options.function
            return command(Command(letters, options, utc_now(), sys.stdout))
    except ConfigurationError as exc:
        log.error("configuration_error", error_message=exc.message)  # noqa: TRY400 - the stack says nothing
        return ExitCode.CONFIGURATION
    except (BrokerError, StorageError) as exc:
        log.error("dependency_unavailable", error_code=exc.code, error_message=exc.message)  # noqa: TRY400 - as above
        return ExitCode.DEPENDENCY
    except BrokenPipeError:
        # Whoever read our output has seen enough. The interpreter flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OpsExit.UNREAD
    except KeyboardInterrupt:
        return OpsExit.INTERRUPTED


class Command:
    """One command with its options, its time, and where it writes."""

    def __init__(self, letters: DeadLetters, options: argparse.Namespace, now: datetime, out: TextIO) -> None:
        self._letters = letters
        self._options = options
        self._out = out
        self._refused = 0
        older, newer = options.older_than, options.newer_than
        self._wanted = Filter(
            ident=options.id or options.task,
            model=options.model,
            tenant=options.tenant,
            reason=options.reason,
            before=now - older if older is not None else None,
            after=now - newer if newer is not None else None,
        )

    def list(self) -> int:
        """Show a line for each."""
        if not self._options.json:
            self._write(render.HEADING)
        self._letters.each(self._wanted, self._options.limit, self._list_one)
        return ExitCode.OK

    def show(self) -> int:
        """Show everything of each."""
        return self._status(self._letters.each(self._wanted, self._options.limit, self._show_one))

    def replay(self) -> int:
        """Make new tasks of them."""
        dry_run = self._options.dry_run
        return self._status(self._letters.replay(self._wanted, self._options.limit, self._tell, dry_run=dry_run))

    def drop(self) -> int:
        """Remove them for good."""
        dry_run = self._options.dry_run
        return self._status(self._letters.drop(self._wanted, self._options.limit, self._tell, dry_run=dry_run))

    def _list_one(self, parked: Parked) -> None:
        self._write(render.as_json(render.summary(parked)) if self._options.json else render.summary_line(parked))

    def _show_one(self, parked: Parked) -> None:
        prompt = self._options.prompt
        if self._options.json:
            self._write(render.as_json(render.everything(parked, prompt=prompt)))
        else:
            self._write(render.report(parked, prompt=prompt) + "\n")

    def _tell(self, done: Result) -> None:
        self._refused += done.fate is Fate.REFUSED
        self._write(render.as_json(render.result(done)) if self._options.json else render.result_line(done))

    def _write(self, text: str) -> None:
        # At once: when this process dies, what it said is what it did.
        self._out.write(f"{text}\n")
        self._out.flush()

    def _status(self, count: int) -> int:
        if count == 0 and self._wanted.ident is not None:
            log.error("not_found", id=self._wanted.ident)
            return OpsExit.NONE_FOUND
        return OpsExit.REFUSED if self._refused else ExitCode.OK


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="services.worker.ops", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    subjects = parser.add_subparsers(dest="subject", required=True)
    dead = subjects.add_parser("dead", help="messages in tasks.dead").add_subparsers(dest="command", required=True)
    listing = dead.add_parser("list", help="one line for each")
    show = dead.add_parser("show", help="everything of one")
    replay = dead.add_parser("replay", help="make a new task of one, or of all that the filters mean")
    drop = dead.add_parser("drop", help="remove one, or all that the filters mean, for good")
    listing.set_defaults(function=Command.list, id=None)
    show.set_defaults(function=Command.show)
    replay.set_defaults(function=Command.replay)
    drop.set_defaults(function=Command.drop)
    show.add_argument("id", help="of the task, or as the list shows it")
    show.add_argument("--prompt", action="store_true", help="show prompts and raw bodies, too")
    for command, consent, what in ((replay, "--all", "replay"), (drop, "--yes", "drop")):
        command.add_argument("id", nargs="?", help="of the task, or as the list shows it")
        command.add_argument(consent, dest="consent", action="store_true", help=f"{what} all that the filters mean")
        command.add_argument("--dry-run", action="store_true", help="only say what would be done")
    for command in (listing, show, replay, drop):
        _add_filters(command)
    options = parser.parse_args(arguments)
    if options.command in {"replay", "drop"} and not (options.id or options.task or options.consent):
        wanted = "--all" if options.command == "replay" else "--yes"
        parser.error(f"{options.command} needs one id, or {wanted}")
    if options.id and options.task not in {None, options.id}:
        parser.error("an id and another --task mean nothing together")
    return options


def _add_filters(command: argparse.ArgumentParser) -> None:
    command.add_argument("--task", help="id of a task")
    command.add_argument("--model", help="id of a model")
    command.add_argument("--tenant", help="id of a tenant")
    command.add_argument("--reason", help="code of the reason, such as attempts_exhausted or undecodable")
    command.add_argument("--older-than", type=_age, metavar="AGE", help="parked longer ago: 90s, 15m, 2h, 7d")
    command.add_argument("--newer-than", type=_age, metavar="AGE", help="parked since")
    command.add_argument("--limit", type=_count, help="of those that the filters mean, at most so many, oldest first")
    command.add_argument("--json", action="store_true", help="one JSON document in each line")


def _age(text: str) -> timedelta:
    found = _AGE.fullmatch(text)
    if found is None:
        message = f"{text!r} is no age: a number with s, m, h or d, such as 15m"
        raise argparse.ArgumentTypeError(message)
    return min(timedelta(**{_UNITS[found[2]]: int(found[1])}), _LONGEST_AGE)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        message = f"{text!r} is no number from 1"
        raise argparse.ArgumentTypeError(message)
    return int(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], connect=dead_letters))
