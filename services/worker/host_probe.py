"""The host itself as a device, for models that run on its processors."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from services.worker.gpu import DeviceInfo, DeviceSample, DeviceUnavailableError
from services.worker.host_memory import ROOT, HostMemory, unshared_mb

if TYPE_CHECKING:
    from pathlib import Path

NAME: Final = "cpu"


@dataclass(frozen=True, slots=True)
class HostProbe:
    """A DeviceProbe with one device: this host's memory and processors."""

    root: Path = ROOT
    cores: int | None = None

    def devices(self) -> tuple[DeviceInfo, ...]:
        """See DeviceProbe."""
        return (DeviceInfo(index=0, uuid=NAME, name=NAME),)

    def sample(self, index: int) -> DeviceSample:
        """See DeviceProbe."""
        if index != 0:
            message = f"the host has no device {index}"
            raise DeviceUnavailableError(message)
        total, free = HostMemory(self.root).read_mb()
        return DeviceSample(name=NAME, uuid=NAME, total_mb=total, free_mb=free, utilisation=self._busy_share())

    def used_mb(self, index: int, pid: int) -> float | None:
        """See DeviceProbe."""
        if index != 0:
            message = f"the host has no device {index}"
            raise DeviceUnavailableError(message)
        return unshared_mb(pid, self.root)

    def driver(self) -> str:
        """See DeviceProbe."""
        return ""

    def close(self) -> None:
        """See DeviceProbe."""

    def _busy_share(self) -> float:
        # The last minute's load for each core. Shares from /proc/stat would need two readings, and the time between two
        # of ours is mostly this worker's own last task; the smoothed figure also keeps the consumer's band steady.
        try:
            load = float((self.root / "proc/loadavg").read_text(encoding="utf-8").split()[0])
        except (OSError, ValueError, IndexError) as exc:
            message = f"the host's load cannot be read: {exc}"
            raise DeviceUnavailableError(message) from exc
        return min(1.0, load / (self.cores or os.cpu_count() or 1))
