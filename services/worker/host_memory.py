"""Memory of this host as its processes may use it: the tightest control group above them, else the whole machine.

All is read from files below a root folder, so that a test can make up a machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from services.worker.gpu import MIB, DeviceUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT: Final = Path("/")
_KIB_PER_MIB: Final = 1024


@dataclass(frozen=True, slots=True)
class _Names:
    """What the files of one version of control groups are called."""

    limit: str
    usage: str
    reclaimable: tuple[str, ...]
    oom_events: str


# File pages are the kernel's to take back, active ones too: MemAvailable counts them so, and a model's weights that are
# mapped from their file are among them. In version 1 only the "total_" figures include groups below, as the usage does.
_V1: Final = _Names(
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    ("total_inactive_file", "total_active_file"),
    "memory.oom_control",
)
_V2: Final = _Names("memory.max", "memory.current", ("inactive_file", "active_file"), "memory.events")


@dataclass(frozen=True, slots=True)
class HostMemory:
    """Free and total memory for this process and its children."""

    root: Path = ROOT

    def read_mb(self) -> tuple[float, float]:
        """Total and free MiB. Raises DeviceUnavailableError where the host has no ``/proc/meminfo``."""
        try:
            total, free = _machine_mb(self.root)
        except (OSError, KeyError) as exc:
            message = f"the host's memory cannot be read: {exc}"
            raise DeviceUnavailableError(message) from exc
        group = _Group.of(self.root, "self")
        for limit, spare in () if group is None else group.bounds_mb():
            total, free = min(total, limit), min(free, spare)
        return total, max(0.0, free)


@dataclass(frozen=True, slots=True)
class OomWatch:
    """Counts the kernel's out-of-memory kills around a process; compare the count before its life and after its end.

    The kernel counts before it sends the signal, so the count is right once the process is gone. It is the group's
    count, and on a host without control groups the machine's: another victim at the same time cannot be told apart.
    """

    counter: Path

    @classmethod
    def of(cls, pid: int | None = None, root: Path = ROOT) -> OomWatch:
        """Watch the control group that a process (this one by default) is in now."""
        group = _Group.of(root, "self" if pid is None else str(pid))
        files = () if group is None else group.oom_files()
        return cls(next((file for file in files if "oom_kill" in _pairs(file)), root / "proc/vmstat"))

    def count(self) -> int:
        """Kills so far."""
        return _pairs(self.counter).get("oom_kill", 0)


def rss_mb(pid: int, root: Path = ROOT) -> float:
    """Resident memory of a process, mapped files included; 0 when it is gone."""
    return _status_mb(pid, root, ("VmRSS",))


def unshared_mb(pid: int, root: Path = ROOT) -> float:
    """Memory that only the end of a process gives back; 0 when it is gone. Its mapped files already count as free."""
    return _status_mb(pid, root, ("RssAnon", "RssShmem"))


@dataclass(frozen=True, slots=True)
class _Group:
    """The control group of a process that bounds its memory."""

    base: Path
    path: PurePosixPath
    names: _Names

    @classmethod
    def of(cls, root: Path, process: str) -> _Group | None:
        try:
            lines = (root / "proc" / process / "cgroup").read_text(encoding="utf-8").splitlines()
        except OSError:
            return None
        entries = [parts for line in lines if len(parts := line.split(":", 2)) == 3]  # noqa: PLR2004 - id, controllers, path
        mounted = root / "sys/fs/cgroup"
        # Where both versions are mounted, the memory controller belongs to the one that lists it.
        for _, controllers, path in entries:
            if "memory" in controllers.split(","):
                return cls(mounted / "memory", PurePosixPath(path), _V1)
        for number, controllers, path in entries:
            if number == "0" and not controllers:
                return cls(mounted, PurePosixPath(path), _V2)
        return None

    def folders(self) -> Iterator[Path]:
        """Its folder and those above it, the innermost first, as far as they exist.

        In a container the mount may begin at the process's own group while the path is still the host's: then the
        folders of the path do not exist, and the mount itself is the group.
        """
        names = [part for part in self.path.parts if part not in {"/", ".."}]
        for depth in range(len(names), -1, -1):
            folder = self.base.joinpath(*names[:depth])
            if folder.is_dir():
                yield folder

    def bounds_mb(self) -> Iterator[tuple[float, float]]:
        """Limit and free MiB of every group among them that has a limit."""
        for folder in self.folders():
            limit, usage = _number(folder / self.names.limit), _number(folder / self.names.usage)
            if limit is not None and usage is not None:
                figures = _pairs(folder / "memory.stat")
                reclaimable = sum(figures.get(name, 0) for name in self.names.reclaimable)
                yield limit / MIB, (limit - max(0, usage - reclaimable)) / MIB

    def oom_files(self) -> Iterator[Path]:
        """Where each of them would count its out-of-memory kills."""
        return (folder / self.names.oom_events for folder in self.folders())


def _machine_mb(root: Path) -> tuple[float, float]:
    figures = _pairs(root / "proc/meminfo", strict=True)
    return figures["MemTotal"] / _KIB_PER_MIB, figures["MemAvailable"] / _KIB_PER_MIB


def _status_mb(pid: int, root: Path, names: tuple[str, ...]) -> float:
    figures = _pairs(root / "proc" / str(pid) / "status")
    return sum(figures.get(name, 0) for name in names) / _KIB_PER_MIB


def _number(path: Path) -> int | None:
    """The number in a file; None for no file and for "max"."""
    try:
        text = path.read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _pairs(path: Path, *, strict: bool = False) -> dict[str, int]:
    """Names and whole numbers of a file with one pair a line; without ``strict`` a missing file is an empty one."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        if strict:
            raise
        return {}
    pairs = (line.split()[:2] for line in lines)
    return {pair[0].rstrip(":"): int(pair[1]) for pair in pairs if len(pair) > 1 and pair[1].isdigit()}
