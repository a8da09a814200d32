"""A made-up machine: the files below /proc and /sys/fs/cgroup that tell its memory, in a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.worker.gpu import MIB

if TYPE_CHECKING:
    from pathlib import Path

UNLIMITED_V1 = 9_223_372_036_854_771_712


class HostTree:
    """Sizes are MiB. ``group`` is the control group of process ``self``."""

    def __init__(self, root: Path, *, total: int = 64_000, available: int = 32_000, load: float = 0.0) -> None:
        self.root = root
        self.write("proc/meminfo", f"MemTotal: {total * 1024} kB\nMemFree: 1 kB\nMemAvailable: {available * 1024} kB\n")
        self.write("proc/loadavg", f"{load:.2f} 0.00 0.00 1/100 4711\n")

    def write(self, name: str, text: str) -> None:
        """Write a file, its folders too."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def process(self, cgroup: str, pid: str = "self") -> None:
        """Put a process into control groups, as its file ``cgroup`` tells them."""
        self.write(f"proc/{pid}/cgroup", cgroup)

    def v2(self, group: str, *, limit: int | None, used: int = 0, files: tuple[int, int] = (0, 0)) -> None:
        """A group of version 2; ``files`` are its inactive and active file pages."""
        folder = f"sys/fs/cgroup{group}"
        self.write(f"{folder}/memory.max", "max\n" if limit is None else f"{limit * MIB}\n")
        self.write(f"{folder}/memory.current", f"{used * MIB}\n")
        inactive, active = files
        self.write(f"{folder}/memory.stat", f"anon 1\ninactive_file {inactive * MIB}\nactive_file {active * MIB}\n")

    def v1(self, group: str, *, limit: int | None, used: int = 0, files: tuple[int, int] = (0, 0)) -> None:
        """A group of version 1."""
        folder = f"sys/fs/cgroup/memory{group}"
        self.write(f"{folder}/memory.limit_in_bytes", f"{UNLIMITED_V1 if limit is None else limit * MIB}\n")
        self.write(f"{folder}/memory.usage_in_bytes", f"{used * MIB}\n")
        inactive, active = files
        # The figures without "total_" leave out the groups below.
        stat = (
            f"inactive_file 0\nactive_file 0\ntotal_inactive_file {inactive * MIB}\ntotal_active_file {active * MIB}\n"
        )
        self.write(f"{folder}/memory.stat", stat)
