"""Servers that tests start: each in a process group of its own, none outlives the test run, however that ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Final

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_STOP_SECONDS: Final = 20

# Reads "+<name>" and "-<name>" until its standard input closes, which happens even when pytest is killed with -9.
# A number is a process group, anything else a container; one that is not there yet may still be on its way.
_GUARD: Final = """
import contextlib, os, signal, sys, time
names = set()
for line in sys.stdin:
    (names.add if line[0] == "+" else names.discard)(line[1:].strip())
containers = {name for name in names if not name.isdigit()}
for group in names - containers:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(int(group), signal.SIGKILL)
if containers:
    import docker
    client = docker.from_env(timeout=60)
    deadline = time.monotonic() + 5
    while containers:
        for name in sorted(containers):
            with contextlib.suppress(docker.errors.NotFound):
                client.containers.get(name).remove(force=True, v=True)
                containers.discard(name)
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
"""


class ProcessGuard:
    """Knows every process group and container that was started; ends what is left when the test run is gone."""

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
        self._tell(f"+{process.pid}")
        return process

    def watch_container(self, name: str) -> None:
        """A container of this name is about to be made."""
        self._tell(f"+{name}")

    def forget_container(self, name: str) -> None:
        """It was removed."""
        self._tell(f"-{name}")

    def freeze(self, process: subprocess.Popen[bytes]) -> None:
        """``kill -STOP`` to the process and everything below it."""
        for each in _family(process):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.suspend()

    def thaw(self, process: subprocess.Popen[bytes]) -> None:
        """``kill -CONT`` to all of them."""
        for each in _family(process):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.resume()

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
        self._tell(f"-{process.pid}")

    def _tell(self, line: str) -> None:
        if self._guard.stdin is not None:
            self._guard.stdin.write(f"{line}\n")
            self._guard.stdin.flush()


def _family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    leader = psutil.Process(process.pid)
    return [leader, *leader.children(recursive=True)]


def require(program: Path | str | None, name: str) -> Path | str:
    """The program's path. Without it the test is skipped on a laptop and fails where CI=true."""
    if program is not None and os.path.exists(program):  # noqa: PTH110 - takes both kinds
        return program
    message = f"{name} is not installed"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)
