"""A control group with a memory limit, where this machine lets us make one (version 1 or 2, usually as root)."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from services.worker.gpu import MIB
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

MOUNT = Path("/sys/fs/cgroup")


class LimitedGroup:
    """Processes that are added may use so much memory together and no swap; the kernel kills one that wants more."""

    def __init__(self, folder: Path, limit_mb: int) -> None:
        self.folder = folder
        self._write("memory.limit_in_bytes" if self._v1 else "memory.max", limit_mb * MIB)
        # Absent where the kernel does not account for swap; then it has to be off for the limit to hold.
        swap = "memory.memsw.limit_in_bytes" if self._v1 else "memory.swap.max"
        if (folder / swap).exists():
            self._write(swap, limit_mb * MIB if self._v1 else 0)

    def add(self, pid: int) -> None:
        """Move a process, and thereby its later children, into the group."""
        self._write("cgroup.procs", pid)

    @property
    def _v1(self) -> bool:
        return (self.folder / "memory.limit_in_bytes").exists()

    def _write(self, name: str, value: int) -> None:
        (self.folder / name).write_text(str(value))


@contextmanager
def limited_group(limit_mb: int) -> Iterator[LimitedGroup]:
    """A group of this test, gone afterwards; skips the test where none can be made. End its processes within."""
    version_1 = MOUNT / "memory"
    folder = (version_1 if version_1.is_dir() else MOUNT) / f"atelier-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as exc:
        pytest.skip(f"no control group can be made here: {exc}")
    try:
        try:
            group = LimitedGroup(folder, limit_mb)
        except OSError as exc:
            pytest.skip(f"no memory limit can be set here: {exc}")
        yield group
    finally:
        until(lambda: _removed(folder), 10, f"the end of the processes in {folder}")


def _removed(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError as exc:
        if exc.errno != errno.EBUSY:
            raise
        return False  # what was killed a moment ago is still on its way out
    return True
