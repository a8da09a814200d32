"""Servers that tests start: each in a process group of its own, none outlives the test run, however that ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_STOP_SECONDS: Final = 20

# Reads "+<group>" and "-<group>" until its standard input closes, which happens even when pytest is killed with -9.
_GUARD: Final = """
import contextlib, os, signal, sys
groups = set()
for line in sys.stdin:
    (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
for group in groups:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
"""


class ProcessGuard:
    """Knows every process group that was started, and ends what is left of them when the test run is gone."""

    def __init__(self) -> None:
        self._guard = subprocess.Popen(
            [sys.executable, "-I", "-c", _GUARD], stdin=subprocess.PIPE, text=True, start_new_session=True
        )

    def spawn(
        self, command: Sequence[str | Path], *, log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a process that leads its own group; both of its outputs are appended to ``log``."""
        with log.open("ab") as output:
            process = subprocess.Popen(
                list(map(str, command)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=None if env is None else dict(env),
                cwd=cwd,
                start_new_session=True,
            )
        self._tell("+", process.pid)
        return process

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """``kill -9`` to the whole group, and wait for its leader's end."""
        self._end(process, signal.SIGKILL)

    def stop(self, process: subprocess.Popen[bytes]) -> None:
        """``kill -15`` to the leader and, when it does not end, ``kill -9`` to the group."""
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)
        self._end(process, signal.SIGKILL)

    def close(self) -> None:
        """End whatever still runs."""
        if self._guard.stdin is not None:
            self._guard.stdin.close()
        self._guard.wait(_STOP_SECONDS)

    def _end(self, process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        process.wait(_STOP_SECONDS)
        self._tell("-", process.pid)

    def _tell(self, sign: str, group: int) -> None:
        if self._guard.stdin is not None:
            self._guard.stdin.write(f"{sign}{group}\n")
            self._guard.stdin.flush()


def require(program: Path | str | None, name: str) -> Path | str:
    """The program's path. Without it the test is skipped on a laptop and fails where CI=true."""
    if program is not None and os.path.exists(program):  # noqa: PTH110 - takes both kinds
        return program
    message = f"{name} is not installed"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)
