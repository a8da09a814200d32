"""A private Redis without persistence; ``redis_container`` has it in a container."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import redis

from tests.support.ports import LOOPBACK, free_port
from tests.support.servers import Server, ServerProcess
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.processes import ProcessGuard

_START_SECONDS: Final = 20


class RedisServer(Server):
    """One Redis that can be killed, started again (empty) and paused."""

    name = "Redis"

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://{LOOPBACK}:{self.port}/0"

    def client(self) -> redis.Redis:
        """A plain client, for looking."""
        return redis.Redis.from_url(self.url, decode_responses=True)

    def pause(self, milliseconds: int) -> None:
        """Answer nobody for a while."""
        self.client().client_pause(milliseconds)

    def version(self) -> str:
        """The version that it tells."""
        return str(self.client().info("server")["redis_version"])

    def answers(self) -> bool:
        """Whether it answers."""
        try:
            return bool(self.client().ping())
        except redis.RedisError:
            return False


# Everything in it is lost with its end.
OPTIONS: Final = ("--save", "", "--appendonly", "no")


class RedisProcess(ServerProcess, RedisServer):
    """Redis from the distribution's package."""

    def __init__(self, program: str, folder: Path, guard: ProcessGuard) -> None:
        self._program = program
        self._folder = folder
        self._guard = guard
        self.port = free_port()

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [self._program, "--port", str(self.port), "--bind", LOOPBACK, *OPTIONS]
        self._process = self._guard.spawn(command, log=self._folder / "redis.log", cwd=self._folder)
        until(self.answers, _START_SECONDS, f"Redis on port {self.port} (see {self._folder})")
