"""A stand-in for the module ``pynvml``: its functions over made-up GPUs, with its own real error classes."""

# ruff: noqa: N802 - the functions' names are pynvml's

from __future__ import annotations

from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, TypeVar

from services.worker.gpu import MIB
from services.worker.nvml import load_pynvml

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


@dataclass(slots=True)
class Gpu:
    """One made-up GPU. ``failing`` maps a question (``utilisation``, ``handle`` ...) to the name of its NVML error."""

    uuid: str
    name: str = "NVIDIA Stand-in"
    total_mb: float = 24_576.0
    free_mb: float = 24_000.0
    busy_percent: int = 0
    celsius: int = 40
    milliwatts: int = 60_000
    processes: list[SimpleNamespace] = field(default_factory=list)
    failing: dict[str, str] = field(default_factory=dict)

    def hold(self, pid: int, mb: float | None) -> None:
        """Let a process hold memory on it."""
        used = None if mb is None else int(mb * MIB)
        self.processes.append(SimpleNamespace(pid=pid, usedGpuMemory=used))


class StandInNvml(ModuleType):
    """NVML with a memory of its sessions: a question outside of one fails, as in the library."""

    def __init__(self, *gpus: Gpu) -> None:
        super().__init__("pynvml")
        real = load_pynvml()
        for name in dir(real):
            if name.startswith(("NVMLError", "NVML_")):
                setattr(self, name, getattr(real, name))
        self.gpus = list(gpus)
        self.sessions = 0
        self.opened = 0
        self.failing: dict[str, str] = {}

    def nvmlInit(self) -> None:
        self._check(self.failing, "init")
        self.sessions += 1
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self._in_session()
        self.sessions -= 1
        self._check(self.failing, "shutdown")

    def nvmlSystemGetDriverVersion(self) -> str:
        self._in_session()
        self._check(self.failing, "driver")
        return "580.00.1"

    def nvmlDeviceGetCount(self) -> int:
        self._in_session()
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Gpu:
        self._in_session()
        if not 0 <= index < len(self.gpus):
            raise _error("InvalidArgument")  # noqa: EM101 - the name of an error class
        return self._ask(self.gpus[index], "handle", lambda: self.gpus[index])

    def nvmlDeviceGetUUID(self, gpu: Gpu) -> str:
        return self._ask(gpu, "uuid", lambda: gpu.uuid)

    def nvmlDeviceGetName(self, gpu: Gpu) -> str:
        return self._ask(gpu, "name", lambda: gpu.name)

    def nvmlDeviceGetMemoryInfo(self, gpu: Gpu) -> SimpleNamespace:
        return self._ask(
            gpu, "memory", lambda: SimpleNamespace(total=int(gpu.total_mb * MIB), free=int(gpu.free_mb * MIB))
        )

    def nvmlDeviceGetUtilizationRates(self, gpu: Gpu) -> SimpleNamespace:
        return self._ask(gpu, "utilisation", lambda: SimpleNamespace(gpu=gpu.busy_percent, memory=0))

    def nvmlDeviceGetTemperature(self, gpu: Gpu, _sensor: int) -> int:
        return self._ask(gpu, "temperature", lambda: gpu.celsius)

    def nvmlDeviceGetPowerUsage(self, gpu: Gpu) -> int:
        return self._ask(gpu, "power", lambda: gpu.milliwatts)

    def nvmlDeviceGetComputeRunningProcesses_v3(self, gpu: Gpu) -> list[SimpleNamespace]:
        return self._ask(gpu, "processes", lambda: list(gpu.processes))

    def _ask(self, gpu: Gpu, question: str, answer: Callable[[], T]) -> T:
        self._in_session()
        self._check(gpu.failing, question)
        return answer()

    def _in_session(self) -> None:
        if not self.sessions:
            raise _error("Uninitialized")  # noqa: EM101 - the name of an error class

    def _check(self, failing: dict[str, str], question: str) -> None:
        if question in failing:
            raise _error(failing[question])


def _error(name: str) -> Exception:
    made: Exception = getattr(load_pynvml(), f"NVMLError_{name}")()
    return made
