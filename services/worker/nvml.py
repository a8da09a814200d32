"""NVIDIA devices as NVML reports them: the driver's own counters, without a CUDA context or memory on the device."""

from __future__ import annotations

import importlib
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

from services.worker.gpu import MIB, DeviceInfo, DeviceSample, DeviceUnavailableError
from shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import ModuleType

log = get_logger(__name__)

T = TypeVar("T")
# What a device, or its driver, does not tell: a gap in the figures and no fault.
_UNTOLD: Final = ("NotSupported", "NoData", "NotReady", "NoPermission", "FunctionNotFound")
# One device that answers so says nothing about the others. NoPermission is a device of the host that a container lacks.
_OUT_OF_USE: Final = ("GpuIsLost", "ResetRequired", "NoPermission", "IrqIssue", "InsufficientPower")


def load_pynvml() -> ModuleType:
    """The binding. It is untyped and of no use on hosts without a GPU, so it is imported when it is asked for."""
    return importlib.import_module("pynvml")


class NvmlProbe:
    """A DeviceProbe over NVML. Opened with the first question, and again after any error."""

    def __init__(self, load: Callable[[], ModuleType] = load_pynvml) -> None:
        self._load = load
        self._nvml: ModuleType | None = None
        self._lock = threading.Lock()

    def devices(self) -> tuple[DeviceInfo, ...]:
        """See DeviceProbe."""
        with self._session() as nvml:
            found = (self._info(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))
            return tuple(info for info in found if info is not None)

    def sample(self, index: int) -> DeviceSample:
        """See DeviceProbe."""
        with self._session() as nvml:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            busy = _told(nvml, lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
            celsius = _told(nvml, lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
            milliwatts = _told(nvml, lambda: nvml.nvmlDeviceGetPowerUsage(handle))
            return DeviceSample(
                name=str(nvml.nvmlDeviceGetName(handle)),
                uuid=str(nvml.nvmlDeviceGetUUID(handle)),
                total_mb=memory.total / MIB,
                free_mb=memory.free / MIB,
                utilisation=min(max((busy or 0) / 100, 0.0), 1.0),
                temperature_c=None if celsius is None else float(celsius),
                power_w=None if milliwatts is None else milliwatts / 1000,
            )

    def used_mb(self, index: int, pid: int) -> float | None:
        """See DeviceProbe. In a container with process ids of its own NVML knows others: then None."""
        with self._session() as nvml:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            processes = _told(nvml, lambda: nvml.nvmlDeviceGetComputeRunningProcesses_v3(handle)) or ()
            used = [process.usedGpuMemory for process in processes if process.pid == pid]
        # A process that computes on the device always holds its context there: no entry is no answer.
        return None if not used or None in used else float(sum(used)) / MIB

    def driver(self) -> str:
        """See DeviceProbe."""
        with self._session() as nvml:
            return str(nvml.nvmlSystemGetDriverVersion())

    def close(self) -> None:
        """See DeviceProbe."""
        with self._lock:
            self._shut()

    @contextmanager
    def _session(self) -> Iterator[ModuleType]:
        # One question at a time: an error ends the session, which must not be another thread's at that moment.
        with self._lock:
            nvml = self._open()
            try:
                yield nvml
            except nvml.NVMLError as exc:
                # A device that was lost or a driver that was reloaded answers a new session only.
                self._shut()
                message = f"NVML: {exc}"
                raise DeviceUnavailableError(message) from exc

    def _open(self) -> ModuleType:
        if self._nvml is not None:
            return self._nvml
        try:
            nvml = self._load()
        except ImportError as exc:
            message = "the package nvidia-ml-py is not installed"
            raise DeviceUnavailableError(message) from exc
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as exc:
            message = f"NVML cannot be opened: {exc}"
            raise DeviceUnavailableError(message) from exc
        self._nvml = nvml
        return nvml

    def _shut(self) -> None:
        nvml, self._nvml = self._nvml, None
        if nvml is None:
            return
        try:
            nvml.nvmlShutdown()
        except nvml.NVMLError as exc:
            log.debug("nvml_shutdown_failed", error_message=str(exc))

    def _info(self, nvml: ModuleType, index: int) -> DeviceInfo | None:
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            return DeviceInfo(
                index=index, uuid=str(nvml.nvmlDeviceGetUUID(handle)), name=str(nvml.nvmlDeviceGetName(handle))
            )
        except _errors(nvml, _OUT_OF_USE) as exc:
            log.warning("device_left_out", device_index=index, error_message=str(exc))
            return None


def _told(nvml: ModuleType, ask: Callable[[], T]) -> T | None:
    """The answer, or None where the device has none."""
    try:
        return ask()
    except _errors(nvml, _UNTOLD):
        return None


def _errors(nvml: ModuleType, names: tuple[str, ...]) -> tuple[type[Exception], ...]:
    return tuple(getattr(nvml, f"NVMLError_{name}") for name in names)
