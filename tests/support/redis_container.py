"""Redis in a container."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.support.containers import ServerContainer
from tests.support.ports import free_port
from tests.support.redis_server import OPTIONS, RedisServer
from tests.support.server_choice import REDIS
from tests.support.servers import ContainedServer
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.support.processes import ProcessGuard

_PORT: Final = 6379
_START_SECONDS: Final = 30


class RedisContainer(ContainedServer, RedisServer):
    """The Redis of an image."""

    def __init__(self, guard: ProcessGuard) -> None:
        self.port = free_port()
        self.container = ServerContainer(REDIS.image, guard, {_PORT: self.port})
        # Within its container it listens to all; outside it is on loopback.
        self.container.configure(["redis-server", "--bind", "*", "--protected-mode", "no", *OPTIONS])

    def start(self) -> None:
        """Start it and wait until it answers."""
        self.container.start()
        until(self._started, _START_SECONDS, f"Redis on port {self.port}")

    def _started(self) -> bool:
        self.container.must_run()
        return self.answers()
