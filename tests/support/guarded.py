"""A test run that waits to be killed: starts one server, says what it is, and never ends by itself."""

from __future__ import annotations

import secrets
import sys
import time
from pathlib import Path

from tests.support.processes import ProcessGuard
from tests.support.server_choice import REDIS


def main(kind: str, folder: Path) -> None:
    """Start a process, a container, or announce a container that somebody else makes; print its id."""
    guard = ProcessGuard()
    if kind == "process":
        started = str(guard.spawn(["sleep", "600"], log=folder / "log").pid)
    elif kind == "container":
        from tests.support.containers import ServerContainer  # noqa: PLC0415 - only where there is an engine

        container = ServerContainer(REDIS.image, guard, {})
        container.start()
        started = container.name
    else:
        started = f"atelier-test-{secrets.token_hex(6)}"
        guard.watch_container(started)
    sys.stdout.write(f"{started}\n")
    sys.stdout.flush()
    time.sleep(600)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
