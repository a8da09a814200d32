"""How much memory a task takes, and giving back what nobody uses. Needs torch only where it is loaded already."""

from __future__ import annotations

import gc
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from services.worker.backends.base import Memory

if TYPE_CHECKING:
    from types import ModuleType

_KIB_PER_MIB: Final = 1024
_MIB: Final = 1 << 20
_STATUS: Final = Path("/proc/self/status")
_CLEAR_REFS: Final = Path("/proc/self/clear_refs")
_RESET_PEAK: Final = "5"


class MemoryMeter:
    """Reads the device's memory for CUDA, and the process's for the CPU."""

    def __init__(self, device: str) -> None:
        self._device = device

    def reset(self) -> None:
        """Let the peaks count from here. Where the kernel refuses, the host's peak is that of the whole process."""
        if (torch := self._cuda()) is not None:
            torch.cuda.reset_peak_memory_stats(self._device)
        try:
            _CLEAR_REFS.write_text(_RESET_PEAK, encoding="ascii")
        except OSError:
            return

    def read(self) -> Memory:
        """Return what was taken since the last reset."""
        host = _host()
        torch = self._cuda()
        if torch is None:
            return Memory(peak_mb=host["VmHWM"], rss_mb=host["VmRSS"])
        cuda, device = torch.cuda, self._device
        return Memory(
            peak_mb=cuda.max_memory_allocated(device) // _MIB,
            allocated_mb=cuda.memory_allocated(device) // _MIB,
            reserved_mb=cuda.max_memory_reserved(device) // _MIB,
            rss_mb=host["VmRSS"],
        )

    def release(self) -> None:
        """Collect garbage, and hand what the device's allocator keeps in reserve back to the device."""
        gc.collect()
        if (torch := self._cuda()) is not None:
            torch.cuda.empty_cache()
            torch.cuda.ipc_collect()

    def _cuda(self) -> ModuleType | None:
        torch = sys.modules.get("torch")
        wanted = torch is not None and self._device.startswith("cuda")
        return torch if torch is not None and wanted and torch.cuda.is_initialized() else None


def _host() -> dict[str, int]:
    """The resident set now and at its highest, in MiB."""
    try:
        lines = _STATUS.read_text(encoding="ascii").splitlines()
    except OSError:
        highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // _KIB_PER_MIB
        return {"VmHWM": highest, "VmRSS": highest}
    found = {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}
    return {name: int(found[name][0]) // _KIB_PER_MIB for name in ("VmHWM", "VmRSS")}
