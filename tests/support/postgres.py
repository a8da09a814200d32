"""A private PostgreSQL; ``postgres_container`` has it in a container."""

from __future__ import annotations

import os
import pwd
import secrets
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psycopg

from tests.support.ports import LOOPBACK, free_port
from tests.support.servers import Server, ServerProcess
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.support.processes import ProcessGuard

USER: Final = "atelier"
PASSWORD: Final = "password"
_START_SECONDS: Final = 30


def postgres_programs() -> Path | None:
    """The folder of the newest version that is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    return found[-1] if found else None


class PostgresServer(Server):
    """One server on loopback, where every test makes a database of its own."""

    name = "PostgreSQL"

    def url(self, database: str) -> str:
        """The address of a database."""
        return f"postgresql://{USER}:{PASSWORD}@{LOOPBACK}:{self.port}/{database}"

    def create_database(self) -> str:
        """A new empty database; returns its address."""
        name = f"test_{secrets.token_hex(6)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)

    def version(self) -> str:
        """The version that it tells."""
        with psycopg.connect(self.url("postgres")) as connection:
            return str(connection.info.parameter_status("server_version")).split()[0]

    def answers(self) -> bool:
        """Whether it takes connections."""
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True


class PostgresProcess(ServerProcess, PostgresServer):
    """PostgreSQL from the distribution's package. Its folder has to be one that its user can reach."""

    def __init__(self, folder: Path, guard: ProcessGuard) -> None:
        self.folder = folder
        self.port = free_port()
        self._guard = guard
        self._programs = postgres_programs() or Path()
        # PostgreSQL refuses to run as root; its package has made a user for it.
        self._owner = pwd.getpwnam("postgres") if os.getuid() == 0 else None
        if self._owner is not None:
            os.chown(folder, self._owner.pw_uid, self._owner.pw_gid)
        data = str(folder / "data")
        subprocess.run(
            self._command("initdb", "--pgdata", data, "--username", USER, "--auth", "trust", "--no-sync"),
            check=True,
            stdout=subprocess.DEVNULL,
            cwd=folder,
        )

    def start(self) -> None:
        """Start it and wait until it answers; what was committed is there again."""
        options = ("-h", LOOPBACK, "-p", str(self.port), "-k", str(self.folder), "-c", "fsync=off")
        command = self._command("postgres", "-D", str(self.folder / "data"), *options)
        self._process = self._guard.spawn(command, log=self.folder / "log", cwd=self.folder)
        until(self.answers, _START_SECONDS, f"PostgreSQL on port {self.port} (see {self.folder}/log)")

    def _command(self, program: str, *arguments: str) -> list[str]:
        command = [str(self._programs / program), *arguments]
        if self._owner is None:
            return command
        as_owner = (f"--reuid={self._owner.pw_uid}", f"--regid={self._owner.pw_gid}", "--clear-groups")
        return ["setpriv", *as_owner, "--", *command]
