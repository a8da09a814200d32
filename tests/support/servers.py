"""What every server of a test run can do, in a container or as a process of this machine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.containers import ServerContainer
    from tests.support.processes import ProcessGuard

_LAST_WORDS: Final = 2000


class Server(ABC):
    """One server on loopback. No test knows in what it runs."""

    name: ClassVar[str]
    port: int

    @abstractmethod
    def start(self) -> None:
        """Start it and wait until it answers; what it had persisted is there again, at the same port."""

    @abstractmethod
    def kill(self) -> None:
        """``kill -9``."""

    @abstractmethod
    def freeze(self) -> None:
        """Stop every process of it where it is: connections stay open and nobody is answered."""

    @abstractmethod
    def thaw(self) -> None:
        """Let it go on."""

    @abstractmethod
    def stop(self) -> None:
        """End it without grace, for good."""

    @abstractmethod
    def version(self) -> str:
        """The version that the running server tells."""

    @abstractmethod
    def home(self) -> str:
        """What it runs in."""

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It keeps its connections and answers nobody."""
        self.freeze()
        try:
            yield
        finally:
            self.thaw()

    def restart(self) -> None:
        """``kill -9`` and start."""
        self.kill()
        self.start()

    def description(self) -> str:
        """What the report says of it."""
        return f"{self.name} {self.version()} ({self.home()})"


class ServerProcess:
    """The part of a server that is a process of this machine."""

    _guard: ProcessGuard
    _process: subprocess.Popen[bytes] | None = None

    def kill(self) -> None:
        """``kill -9`` to it and everything that it started."""
        if self._process is not None:
            self._guard.kill(self._process)
            self._process = None

    def stop(self) -> None:
        """End it."""
        self.kill()

    def freeze(self) -> None:
        """``kill -STOP`` to it and everything that it started."""
        self._guard.freeze(self._running())

    def thaw(self) -> None:
        """``kill -CONT`` to all of them."""
        self._guard.thaw(self._running())

    def home(self) -> str:
        """What it runs in."""
        return "process"

    def _must_run(self, log: Path) -> None:
        if self._process is None or self._process.poll() is not None:
            message = f"it ended while starting: {log.read_text()[-_LAST_WORDS:]}"
            raise AssertionError(message)

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            message = "it does not run"
            raise AssertionError(message)
        return self._process


class ContainedServer:
    """The part of a server that is a container."""

    container: ServerContainer

    def kill(self) -> None:
        """``docker kill``."""
        self.container.kill()

    def stop(self) -> None:
        """Remove it with all that it holds."""
        self.container.remove()

    def freeze(self) -> None:
        """``docker pause``."""
        self.container.freeze()

    def thaw(self) -> None:
        """``docker unpause``."""
        self.container.thaw()

    def home(self) -> str:
        """What it runs in."""
        return f"container of {self.container.image}"
