"""From the setting ``device`` to the one device that this worker watches, and what its child must be told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.worker.gate import choose
from services.worker.gpu import Device, DeviceUnavailableError, numbered, visible_devices
from services.worker.gpu_fakes import FileProbe
from services.worker.host_probe import HostProbe
from services.worker.nvml import NvmlProbe
from shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from services.worker.gpu import DeviceInfo, DeviceProbe, DeviceSample

log = get_logger(__name__)

CPU: Final = "cpu"
AUTO: Final = "auto"


def open_probe(device: str, fake: Path | None = None) -> DeviceProbe:
    """The probe for a device setting: ``cpu``, ``cuda``, ``cuda:<n>`` or ``auto``. It is not asked anything yet.

    ``fake`` is a file of made-up devices, for tests of a whole worker process; see gpu_fakes.FakeDevices.
    """
    if fake is not None:
        log.warning("devices_are_made_up", file=str(fake))
        return FileProbe(fake)
    return HostProbe() if device == CPU else NvmlProbe()


def find_device(probe: DeviceProbe, device: str, visible: str | None = None) -> Device:
    """The device that the setting names, or the best one for ``auto``; ``visible`` is CUDA_VISIBLE_DEVICES.

    Raises ConfigurationError for a number that does not exist, DeviceUnavailableError when the driver does not answer
    or ``auto`` finds no device.
    """
    found = probe.devices()
    if device == CPU:
        return Device(probe, numbered(found, device))
    usable = visible_devices(found, visible)
    info = _best(probe, usable) if device == AUTO else numbered(usable, device)
    log.info("device_chosen", setting=device, device_index=info.index, device_uuid=info.uuid, device_name=info.name)
    return Device(probe, info)


def child_device(setting: str, device: Device) -> tuple[str, dict[str, str]]:
    """The child's own name for the device, and the variables that make it the only one that the child sees.

    By itself CUDA numbers devices by speed and NVML by bus, so that a number would not be the same device for both.
    """
    if setting == CPU:
        return CPU, {"CUDA_VISIBLE_DEVICES": ""}
    return "cuda:0", {"CUDA_VISIBLE_DEVICES": device.info.uuid, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def _best(probe: DeviceProbe, infos: Sequence[DeviceInfo]) -> DeviceInfo:
    samples: list[DeviceSample] = []
    answering: list[DeviceInfo] = []
    for info in infos:
        try:
            samples.append(probe.sample(info.index))
        except DeviceUnavailableError as exc:
            log.warning("device_left_out", device_index=info.index, error_message=exc.message)
            continue
        answering.append(info)
    return answering[choose(samples)]
