"""The programs' logs, read together: one task's story, or everything as it happens."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_POLL_SECONDS: Final = 0.3
_FILE_NAME: Final = re.compile(r"^(?P<program>.+)\.log(\.\d+)?$")
# Shown in columns of their own, said once for a whole story, or of no interest in it.
_LEFT_OUT: Final = frozenset({"@timestamp", "service.name", "log.level", "message", "task_id", "log.logger"})
# What ties lines together; long, and so at a line's end.
_IDS: Final = ("tenant_id", "request_id", "trace.id")


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a program's log. ``polls`` more like it followed, which are not shown."""

    program: str
    fields: dict[str, Any]
    polls: int = 0

    @property
    def time(self) -> datetime:
        """When it happened."""
        try:
            moment = datetime.fromisoformat(self.fields["@timestamp"])
        except (TypeError, ValueError):
            return datetime.min.replace(tzinfo=UTC)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)

    def is_poll(self, task_id: str) -> bool:
        """Whether it is a client's look at the task, of which there may be hundreds."""
        path = str(self.fields.get("url.path", ""))
        return self.fields.get("http.request.method") == "GET" and path.endswith(f"/{task_id}")

    def __str__(self) -> str:
        names = [name for name in self.fields if name not in _LEFT_OUT and name not in _IDS]
        names += [name for name in _IDS if name in self.fields]
        rest = [f"{name}={_short(self.fields[name])}" for name in names]
        if self.polls:
            rest.insert(0, f"(and {self.polls} more)")
        level, message = (str(self.fields.get(name, "-")) for name in ("log.level", "message"))
        head = f"{self.time.astimezone():%H:%M:%S.%f}  {self.program:<20} {level:<7} {message:<20}"
        return f"{head} {' '.join(rest)}".rstrip()


def story(folder: Path, task_id: str) -> list[str]:
    """Every event that names a task, of all programs, in the order of time, as aligned text."""
    found = [event for path in sorted(folder.glob("*.log*")) for event in _events(path, task_id)]
    return [str(event) for event in _without_repeated_polls(sorted(found, key=lambda event: event.time), task_id)]


def follow(folder: Path) -> Iterator[str]:
    """Lines as the programs write them, from now on and without end."""
    positions = {path: path.stat().st_size for path in folder.glob("*.log")}
    while True:
        for path in sorted(folder.glob("*.log")):
            start = positions.get(path, 0)
            if path.stat().st_size < start:  # it was rotated
                start = 0
            with path.open("rb") as file:
                file.seek(start)
                text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            positions[path] = start + len(whole)
            for line in whole.decode(errors="replace").splitlines():
                fields = _parsed(line)
                yield str(Event(path.stem, fields)) if fields else f"{path.stem}: {line}"
        time.sleep(_POLL_SECONDS)


def _events(path: Path, task_id: str) -> Iterator[Event]:
    match = _FILE_NAME.match(path.name)
    if match is None:
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            if task_id in line and (fields := _parsed(line)) and fields.get("task_id") == task_id:
                yield Event(match["program"], fields)


def _without_repeated_polls(events: list[Event], task_id: str) -> list[Event]:
    kept: list[Event] = []
    row: dict[str, int] = {}  # where each program's polls of the present row stand
    for event in events:
        if not event.is_poll(task_id):
            row.clear()
        elif event.program in row:
            first = row[event.program]
            kept[first] = replace(kept[first], polls=kept[first].polls + 1)
            continue
        else:
            row[event.program] = len(kept)
        kept.append(event)
    return kept


def _parsed(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and "@timestamp" in record else None


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return json.dumps(text) if any(character in text for character in ' \n"') else text
