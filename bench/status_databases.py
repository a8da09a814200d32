"""Status databases to measure on: files, and a private PostgreSQL where its programs are installed."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    NewDatabase = Callable[[], str]


@contextmanager
def databases(folder: Path) -> Iterator[dict[str, NewDatabase]]:
    """By the kind of database what makes a new empty one and gives its address."""
    from tests.support.postgres import PostgresProcess, postgres_programs  # noqa: PLC0415 - the test tools start it
    from tests.support.processes import ProcessGuard  # noqa: PLC0415

    files = iter(range(10_000))
    kinds: dict[str, NewDatabase] = {"sqlite": lambda: f"sqlite:///{folder}/status-{next(files)}.db"}
    if postgres_programs() is None:
        print("bench: PostgreSQL is not installed, so it is not measured")
        yield kinds
        return
    guard = ProcessGuard()
    with tempfile.TemporaryDirectory(prefix="atelier-bench-postgres-") as data:
        server = PostgresProcess(Path(data), guard)
        try:
            server.start()
            yield {**kinds, "postgres": server.create_database}
        finally:
            server.stop()
            guard.close()
