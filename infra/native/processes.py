"""Which processes belong to a stack, from ``/proc``: so that a stop can say that nothing is left."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_PROC: Final = Path("/proc")
_POLL_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Process:
    """One process. Its start time tells it from a later one with the same pid."""

    pid: int
    started: int  # clock ticks after the machine's start
    parent: int
    session: int
    name: str


def find(pid: int) -> Process | None:
    """The process with this pid, unless it has ended (a zombie has)."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # "pid (name) state parent group session ...": the name may hold spaces and parentheses.
    head, _, tail = text.rpartition(")")
    state, parent, _group, session, *rest = tail.split()
    if state in "ZX":
        return None
    return Process(pid, int(rest[15]), int(parent), int(session), head.partition("(")[2])


def everything() -> list[Process]:
    """Every process that this user can see."""
    found = (find(int(entry.name)) for entry in _PROC.iterdir() if entry.name.isdigit())
    return [process for process in found if process is not None]


def belonging_to(session: int) -> set[Process]:
    """The processes of a session and all their descendants (Erlang's helpers have sessions of their own)."""
    processes = everything()
    members = {process for process in processes if process.session == session}
    while True:
        pids = {process.pid for process in members}
        found = {process for process in processes if process.parent in pids} - members
        if not found:
            return members
        members |= found


def still_there(processes: Iterable[Process]) -> set[Process]:
    """Those that have not ended."""
    return {process for process in processes if (now := find(process.pid)) and now.started == process.started}


def wait_gone(processes: Iterable[Process], seconds: float) -> set[Process]:
    """Wait for processes to end; those that have not when the time is over."""
    deadline = time.monotonic() + seconds
    while (left := still_there(processes)) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    return left


def end(processes: Iterable[Process], seconds: float) -> None:
    """End processes: politely, and after so many seconds by force."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for process in still_there(processes):
            try:
                os.kill(process.pid, number)
            except ProcessLookupError:
                continue  # it ended between the look and the signal
        if not wait_gone(processes, seconds):
            return
