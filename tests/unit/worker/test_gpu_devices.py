from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.worker.devices import child_device, find_device, open_probe
from services.worker.gpu import DeviceInfo, DeviceUnavailableError, numbered, visible_devices
from services.worker.gpu_fakes import FakeDevice, FakeProbe, FileProbe, write_devices
from services.worker.host_probe import HostProbe
from services.worker.nvml import NvmlProbe
from shared.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

DEVICES = tuple(
    DeviceInfo(index=index, uuid=uuid, name="GPU")
    for index, uuid in enumerate(("GPU-aaaa1111", "GPU-aaaa2222", "GPU-bbbb3333"))
)


def visible(value: str | None) -> list[int]:
    return [device.index for device in visible_devices(DEVICES, value)]


@pytest.mark.parametrize(
    ("value", "indices"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("2", [2]),
        ("2,0", [2, 0]),
        (" 1 , 2 ", [1, 2]),
        ("0,-1,2", [0]),
        ("1,7,2", [1]),
        ("1,1,2", [1]),
        ("GPU-bbbb3333,GPU-aaaa1111", [2, 0]),
        ("GPU-b", [2]),
        ("GPU-aaaa", []),
        ("GPU-cccc", []),
        ("0,GPU-bbbb3333", [0, 2]),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(value: str | None, indices: list[int]) -> None:
    assert visible(value) == indices


def test_a_part_of_a_device_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError, match="CUDA_VISIBLE_DEVICES: MIG-1: parts"):
        visible("MIG-1")


@given(st.lists(st.integers(-2, 5), max_size=6))
def test_whatever_is_visible_exists_and_is_there_once(indices: list[int]) -> None:
    shown = visible(",".join(map(str, indices)))
    assert len(set(shown)) == len(shown)
    assert shown == indices[: len(shown)]


def test_a_number_counts_the_visible_devices() -> None:
    shown = visible_devices(DEVICES, "2,0")
    assert [numbered(shown, name).index for name in ("cuda", "cuda:0", "cuda:1")] == [2, 2, 0]


def test_a_number_past_the_last_device_is_an_error_of_the_setting() -> None:
    with pytest.raises(ConfigurationError, match="cuda:2: this process sees 2"):
        numbered(visible_devices(DEVICES, "2,0"), "cuda:2")


def test_the_child_is_told_the_device_by_its_uuid_so_that_both_mean_the_same_one() -> None:
    device = find_device(FakeProbe(FakeDevice(uuid="GPU-1"), FakeDevice(uuid="GPU-2")), "cuda:1")
    name, environment = child_device("cuda:1", device)
    assert name == "cuda:0"
    assert environment == {"CUDA_VISIBLE_DEVICES": "GPU-2", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def test_a_child_on_the_processors_sees_no_gpu() -> None:
    assert child_device("cpu", find_device(HostProbe(), "cpu")) == ("cpu", {"CUDA_VISIBLE_DEVICES": ""})


def test_auto_takes_the_best_of_the_visible_devices_that_answer() -> None:
    probe = FakeProbe(
        FakeDevice(uuid="GPU-1", error="GPU is lost"),
        FakeDevice(uuid="GPU-2", utilisation=0.9),
        FakeDevice(uuid="GPU-3", utilisation=0.2),
        FakeDevice(uuid="GPU-4"),
    )
    assert find_device(probe, "auto").info.uuid == "GPU-4"
    assert find_device(probe, "auto", visible="0,1,2").info.uuid == "GPU-3"


@pytest.mark.parametrize("visible", ["", None])
def test_auto_without_any_device_does_not_fall_back_to_the_processors(visible: str | None) -> None:
    with pytest.raises(DeviceUnavailableError, match="no device"):
        find_device(FakeProbe(FakeDevice(error="GPU is lost")), "auto", visible)


def test_the_processors_do_not_depend_on_which_gpus_are_visible() -> None:
    assert find_device(HostProbe(), "cpu", visible="").info.name == "cpu"


@pytest.mark.parametrize(
    ("device", "kind"), [("cpu", HostProbe), ("cuda", NvmlProbe), ("cuda:3", NvmlProbe), ("auto", NvmlProbe)]
)
def test_the_setting_decides_whom_to_ask_and_opening_asks_nothing(device: str, kind: type) -> None:
    assert type(open_probe(device)) is kind


@pytest.mark.parametrize("device", ["cpu", "cuda:0", "auto"])
def test_a_file_of_made_up_devices_takes_the_place_of_every_probe(tmp_path: Path, device: str) -> None:
    path = tmp_path / "devices.json"
    probe = open_probe(device, path)
    assert type(probe) is FileProbe
    write_devices(path, [FakeDevice(uuid="GPU-made-up")])
    assert find_device(probe, device).info.uuid == "GPU-made-up"


@pytest.mark.parametrize("body", [None, "", "{", '{"devices": [{"free": 1}]}', "[]"])
def test_a_file_of_made_up_devices_that_cannot_be_read_is_a_device_that_may_come_back(
    tmp_path: Path, body: str | None
) -> None:
    path = tmp_path / "devices.json"
    if body is not None:
        path.write_text(body)
    with pytest.raises(DeviceUnavailableError):
        FileProbe(path).sample(0)


def test_a_file_that_a_person_wrote_needs_only_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "devices.json"
    path.write_text('{"devices": [{"free_mb": 10, "held_mb": {"42": 5}}, {"held_mb": 7}]}')
    probe = FileProbe(path)
    assert probe.sample(0).free_mb == 10
    assert [probe.used_mb(0, 42), probe.used_mb(0, 43), probe.used_mb(1, 43)] == [5, None, 7]


def test_scripted_changes_come_one_with_each_sample_and_the_last_one_stays() -> None:
    probe = FakeProbe().then(free_mb=1).then().then(error="GPU is lost").then(error=None, free_mb=2)
    assert [probe.sample(0).free_mb for _ in range(2)] == [1, 1]
    with pytest.raises(DeviceUnavailableError, match="GPU is lost"):
        probe.sample(0)
    assert [probe.sample(0).free_mb for _ in range(3)] == [2, 2, 2]
