"""The port through which the worker sees its device: which there are, how full they are, how busy.

Memory is in MiB (2**20 bytes) throughout. Nothing here or behind this port ever computes on a device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from shared.domain.errors import AtelierError, ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

MIB: Final = 2**20


class DeviceUnavailableError(AtelierError):
    """The device cannot be asked for its figures: no driver, no library, or the device is lost."""

    code = "device_unavailable"
    retryable = True


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceInfo:
    """One device of this host. ``index`` is its place in the probe's own order, ``uuid`` is the device itself."""

    index: int
    uuid: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSample:
    """A device at one moment. ``utilisation`` is its busy share, 0 to 1; 0 where the device does not tell."""

    name: str
    uuid: str
    total_mb: float
    free_mb: float
    utilisation: float
    temperature_c: float | None = None
    power_w: float | None = None


class DeviceProbe(Protocol):
    """Asks devices for their figures. Any thread may ask. All but ``close`` raise DeviceUnavailableError."""

    def devices(self) -> tuple[DeviceInfo, ...]:
        """The devices that can be used, in order of their index; a lost one is left out."""
        ...

    def sample(self, index: int) -> DeviceSample:
        """The figures of one device, now."""
        ...

    def used_mb(self, index: int, pid: int) -> float | None:
        """Memory that a process holds on the device; None when the platform does not tell."""
        ...

    def driver(self) -> str:
        """Version of the device's driver; empty where there is none."""
        ...

    def close(self) -> None:
        """Let go of the library. Safe to repeat; a later question opens it again."""
        ...


@dataclass(frozen=True, slots=True)
class Device:
    """The one device that this worker uses, whatever becomes of the order of the others."""

    probe: DeviceProbe
    info: DeviceInfo

    def sample(self) -> DeviceSample:
        """Its figures, now. Raises DeviceUnavailableError, also when another device has taken its place."""
        sample = self.probe.sample(self.info.index)
        if sample.uuid != self.info.uuid:
            # After a device is lost and the driver starts again, the others move up.
            message = f"device {self.info.index} is {sample.uuid} now, not {self.info.uuid}"
            raise DeviceUnavailableError(message)
        return sample

    def used_mb(self, pid: int) -> float | None:
        """Memory that a process holds on it; None when the platform does not tell."""
        return self.probe.used_mb(self.info.index, pid)


def visible_devices(devices: Sequence[DeviceInfo], visible: str | None) -> tuple[DeviceInfo, ...]:
    """The devices that CUDA_VISIBLE_DEVICES leaves, in its order; ``visible`` is its value, None when it is not set.

    As in CUDA an entry is an index or the beginning of a UUID, and the first entry that fits no device ends the list.
    Raises ConfigurationError for parts of a device (MIG), whose memory NVML reports under other handles.
    """
    if visible is None:
        return tuple(devices)
    chosen: list[DeviceInfo] = []
    for entry in (part.strip() for part in visible.split(",")):
        if entry.startswith("MIG-"):
            message = f"CUDA_VISIBLE_DEVICES: {entry}: parts of a device (MIG) are not supported"
            raise ConfigurationError(message)
        match = _match(devices, entry)
        if match is None or match in chosen:
            break
        chosen.append(match)
    return tuple(chosen)


def _match(devices: Sequence[DeviceInfo], entry: str) -> DeviceInfo | None:
    if entry.startswith("GPU-"):
        matches = [device for device in devices if device.uuid.startswith(entry)]
    else:
        matches = [device for device in devices if str(device.index) == entry]
    return matches[0] if len(matches) == 1 else None


def numbered(devices: Sequence[DeviceInfo], device: str) -> DeviceInfo:
    """The device that ``cuda:<n>`` names among the visible ones; ``cuda`` is the first. Raises ConfigurationError."""
    number = int(device.partition(":")[2] or 0)
    if number >= len(devices):
        message = f"device {device}: this process sees {len(devices)} of them"
        raise ConfigurationError(message)
    return devices[number]
