"""PostgreSQL in a container."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.support.containers import ServerContainer
from tests.support.ports import free_port
from tests.support.postgres import PASSWORD, USER, PostgresServer
from tests.support.server_choice import POSTGRES
from tests.support.servers import ContainedServer
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.support.processes import ProcessGuard

_PORT: Final = 5432
_START_SECONDS: Final = 60


class PostgresContainer(ContainedServer, PostgresServer):
    """The PostgreSQL of an image."""

    def __init__(self, guard: ProcessGuard) -> None:
        self.port = free_port()
        self.container = ServerContainer(POSTGRES.image, guard, {_PORT: self.port})
        environment = {"POSTGRES_USER": USER, "POSTGRES_PASSWORD": PASSWORD, "POSTGRES_INITDB_ARGS": "--no-sync"}
        self.container.configure(["postgres", "-c", "fsync=off"], environment)

    def start(self) -> None:
        """Start it and wait until it answers; what was committed is there again."""
        self.container.start()
        until(self._started, _START_SECONDS, f"PostgreSQL on port {self.port}")

    def _started(self) -> bool:
        self.container.must_run()
        return self.answers()
