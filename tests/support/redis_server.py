"""A private Redis from the distribution's package, without persistence."""

from __future__ import annotations

from typing import TYPE_CHECKING

import redis

from tests.support.ports import LOOPBACK, free_port
from tests.support.waiting import until

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests.support.processes import ProcessGuard

_START_SECONDS = 20


class RedisServer:
    """One Redis that can be killed, started again (empty) and paused."""

    def __init__(self, program: str, folder: Path, guard: ProcessGuard) -> None:
        self._program = program
        self._folder = folder
        self._guard = guard
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://{LOOPBACK}:{self.port}/0"

    def client(self) -> redis.Redis:
        """A plain client, for looking."""
        return redis.Redis.from_url(self.url, decode_responses=True)

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [self._program, "--port", str(self.port), "--bind", LOOPBACK, "--save", "", "--appendonly", "no"]
        self._process = self._guard.spawn(command, log=self._folder / "redis.log", cwd=self._folder)
        until(self._answers, _START_SECONDS, f"Redis on port {self.port} (see {self._folder})")

    def kill(self) -> None:
        """``kill -9``; everything in it is lost."""
        if self._process is not None:
            self._guard.kill(self._process)
            self._process = None

    def pause(self, milliseconds: int) -> None:
        """Answer nobody for a while."""
        self.client().client_pause(milliseconds)

    def _answers(self) -> bool:
        try:
            return bool(self.client().ping())
        except redis.RedisError:
            return False
