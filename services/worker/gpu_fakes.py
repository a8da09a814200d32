"""Devices whose figures a test sets: in memory for unit tests, and in a file for a worker process that is running.

``FileProbe`` is what a worker uses when it is started with a file of made-up devices; no other setting leads here.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from services.worker.gate import Gate
from services.worker.gpu import Device, DeviceInfo, DeviceSample, DeviceUnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ROOMY_MB: Final = 1_000_000.0


class FakeDevice(BaseModel):
    """A device at one moment.

    ``held_mb`` is what a process holds, for all process ids or for each; None when the device does not tell.
    ``error`` is why it does not answer; None when it does. ``lost`` also leaves it out of the list.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    uuid: str = "GPU-00000000-fake"
    name: str = "Fake GPU"
    total_mb: float = 24_576.0
    free_mb: float = 24_000.0
    utilisation: float = 0.0
    temperature_c: float | None = None
    power_w: float | None = None
    held_mb: float | dict[int, float] | None = None
    error: str | None = None
    lost: bool = False

    def changed(self, **changes: object) -> FakeDevice:
        """The device at another moment. Raises pydantic's ValidationError for a field that it does not have."""
        return FakeDevice.model_validate({**self.model_dump(), **changes})

    def sample(self) -> DeviceSample:
        """As a probe would tell it."""
        self.answer()
        return DeviceSample(
            name=self.name,
            uuid=self.uuid,
            total_mb=self.total_mb,
            free_mb=self.free_mb,
            utilisation=self.utilisation,
            temperature_c=self.temperature_c,
            power_w=self.power_w,
        )

    def used_mb(self, pid: int) -> float | None:
        """As a probe would tell it."""
        self.answer()
        return self.held_mb.get(pid) if isinstance(self.held_mb, dict) else self.held_mb

    def answer(self) -> None:
        """Raises DeviceUnavailableError when it shall not answer."""
        if self.error is not None or self.lost:
            raise DeviceUnavailableError(self.error or "the device is lost")


class FakeDevices(BaseModel):
    """All devices of a host, as the file holds them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    devices: tuple[FakeDevice, ...] = ()
    driver: str = "fake-1"
    error: str | None = None

    def infos(self) -> tuple[DeviceInfo, ...]:
        """The devices that can be used."""
        self._answer()
        return tuple(
            DeviceInfo(index=index, uuid=device.uuid, name=device.name)
            for index, device in enumerate(self.devices)
            if not device.lost
        )

    def device(self, index: int) -> FakeDevice:
        """One device, in whatever state."""
        self._answer()
        if not 0 <= index < len(self.devices):
            message = f"there is no device {index}"
            raise DeviceUnavailableError(message)
        return self.devices[index]

    def version(self) -> str:
        """Of the driver."""
        self._answer()
        return self.driver

    def _answer(self) -> None:
        if self.error is not None:
            raise DeviceUnavailableError(self.error)


class FakeProbe:
    """A DeviceProbe in memory. Figures stand until they are changed, or change from one sample to the next."""

    def __init__(self, *devices: FakeDevice) -> None:
        self._host = FakeDevices(devices=devices or (FakeDevice(),))
        self._coming: dict[int, deque[dict[str, object]]] = {}
        self.samples = 0

    def now(self, index: int = 0, **changes: object) -> None:
        """Change a device at once."""
        devices = list(self._host.devices)
        devices[index] = devices[index].changed(**changes)
        self._host = self._host.model_copy(update={"devices": tuple(devices)})

    def then(self, index: int = 0, **changes: object) -> FakeProbe:
        """Change a device with its next sample that no earlier change has; without changes, pass one sample."""
        self._coming.setdefault(index, deque()).append(changes)
        return self

    def fail(self, error: str | None) -> None:
        """All questions fail, as without a driver; None ends it."""
        self._host = self._host.model_copy(update={"error": error})

    def devices(self) -> tuple[DeviceInfo, ...]:
        """See DeviceProbe."""
        return self._host.infos()

    def sample(self, index: int) -> DeviceSample:
        """See DeviceProbe."""
        self.samples += 1
        coming = self._coming.get(index)
        if coming:
            self.now(index, **coming.popleft())
        return self._host.device(index).sample()

    def used_mb(self, index: int, pid: int) -> float | None:
        """See DeviceProbe."""
        return self._host.device(index).used_mb(pid)

    def driver(self) -> str:
        """See DeviceProbe."""
        return self._host.version()

    def close(self) -> None:
        """See DeviceProbe."""


class FileProbe:
    """A DeviceProbe that reads ``FakeDevices`` as JSON from a file, anew for every question."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def devices(self) -> tuple[DeviceInfo, ...]:
        """See DeviceProbe."""
        return self._read().infos()

    def sample(self, index: int) -> DeviceSample:
        """See DeviceProbe."""
        return self._read().device(index).sample()

    def used_mb(self, index: int, pid: int) -> float | None:
        """See DeviceProbe."""
        return self._read().device(index).used_mb(pid)

    def driver(self) -> str:
        """See DeviceProbe."""
        return self._read().version()

    def close(self) -> None:
        """See DeviceProbe."""

    def _read(self) -> FakeDevices:
        try:
            return FakeDevices.model_validate_json(self._path.read_bytes())
        except (OSError, ValidationError) as exc:
            message = f"the file of made-up devices cannot be read: {exc}"
            raise DeviceUnavailableError(message) from exc


def write_devices(path: Path, devices: Sequence[FakeDevice], *, error: str | None = None) -> None:
    """Replace the file in one step: who reads meanwhile sees the old or the new figures."""
    body = FakeDevices(devices=tuple(devices), error=error).model_dump_json()
    fresh = path.with_suffix(".new")
    fresh.write_text(body, encoding="utf-8")
    fresh.replace(path)


def fake_gate(probe: FakeProbe | None = None) -> Gate:
    """A gate over a made-up device; without a probe it has room for everything."""
    seen = probe or FakeProbe(FakeDevice(total_mb=ROOMY_MB, free_mb=ROOMY_MB))
    return Gate(Device(seen, seen.devices()[0]), held_mb=lambda: 0.0)
