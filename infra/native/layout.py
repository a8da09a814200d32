"""Where a stack keeps its files."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from infra.native.errors import StackError

# A Unix socket's path holds at most 107 bytes; supervisord adds its pid to the name while it binds.
_LONGEST_SOCKET_PATH: Final = 90
_LONGEST_SOCKET_NAME: Final = "supervisor.sock"


@dataclass(frozen=True, slots=True)
class Layout:
    """The folders under one run folder."""

    run: Path

    @property
    def digest(self) -> str:
        """Tells the stacks of one machine apart."""
        return hashlib.sha256(str(self.run).encode()).hexdigest()[:10]

    @property
    def conf(self) -> Path:
        """Rendered configurations."""
        return self.run / "conf"

    @property
    def logs(self) -> Path:
        """One file for each program."""
        return self.run / "logs"

    @property
    def secrets(self) -> Path:
        """Files that only the owner may read."""
        return self.run / "secrets"

    @property
    def work(self) -> Path:
        """Temporary files of the workers."""
        return self.run / "work"

    @property
    def demo_file(self) -> Path:
        """Address and keys, for scripts and people."""
        return self.run / "demo.json"

    @property
    def session_file(self) -> Path:
        """Which session the programs run in."""
        return self.run / "session.json"

    def data(self, program: str) -> Path:
        """What a program keeps between runs."""
        return self.run / "data" / program

    @property
    def sockets(self) -> Path:
        """Unix sockets: in the run folder, or in a short private one where its path is too long."""
        if len(str(self.run / _LONGEST_SOCKET_NAME)) <= _LONGEST_SOCKET_PATH:
            return self.run
        return Path(tempfile.gettempdir()) / f"atelier-{os.getuid()}-{self.digest}"

    @property
    def control_socket(self) -> Path:
        """Where the supervisor listens."""
        return self.sockets / _LONGEST_SOCKET_NAME

    def remove_sockets(self) -> None:
        """Remove the sockets of programs that have ended."""
        for path in self.sockets.glob("*.sock"):
            path.unlink()
        if self.sockets != self.run and self.sockets.exists():
            self.sockets.rmdir()

    def make(self) -> None:
        """Create the folders. Raises StackError when the folder for sockets belongs to somebody else."""
        for folder in (self.run, self.conf, self.logs, self.secrets, self.sockets, self.work):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.sockets.stat().st_uid != os.getuid():
            message = f"{self.sockets} belongs to another user"
            raise StackError(message)
        for private in (self.run, self.secrets, self.sockets):
            private.chmod(0o700)
