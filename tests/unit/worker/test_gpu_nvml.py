from __future__ import annotations

import importlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

from services.worker.gpu import Device, DeviceUnavailableError
from services.worker.nvml import NvmlProbe
from tests.support.nvml import Gpu, StandInNvml

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import SimpleNamespace

ONE, TWO = "GPU-1111", "GPU-2222"


def probe_of(nvml: StandInNvml) -> NvmlProbe:
    return NvmlProbe(lambda: nvml)


@pytest.fixture
def nvml() -> StandInNvml:
    return StandInNvml(Gpu(uuid=ONE), Gpu(uuid=TWO))


@pytest.mark.parametrize("error", ["LibraryNotFound", "DriverNotLoaded", "LibRmVersionMismatch", "NoPermission"])
def test_an_nvml_that_cannot_be_opened_is_a_device_that_may_come_back(nvml: StandInNvml, error: str) -> None:
    nvml.failing = {"init": error}
    with pytest.raises(DeviceUnavailableError) as caught:
        probe_of(nvml).devices()
    assert (caught.value.code, caught.value.retryable) == ("device_unavailable", True)
    assert type(caught.value.__cause__).__name__ == f"NVMLError_{error}"


def test_a_host_without_the_binding_says_which_package_is_missing() -> None:
    def missing() -> NoReturn:
        raise ModuleNotFoundError(name="pynvml")

    with pytest.raises(DeviceUnavailableError, match="nvidia-ml-py") as caught:
        NvmlProbe(missing).sample(0)
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


@pytest.mark.parametrize("error", ["GpuIsLost", "ResetRequired", "Unknown", "Timeout", "Uninitialized"])
@pytest.mark.parametrize("question", ["handle", "memory", "utilisation", "uuid"])
def test_an_error_of_a_question_is_translated_and_the_next_question_has_a_session_of_its_own(
    nvml: StandInNvml, question: str, error: str
) -> None:
    probe = probe_of(nvml)
    probe.sample(0)
    nvml.gpus[0].failing = {question: error}
    with pytest.raises(DeviceUnavailableError):
        probe.sample(0)
    assert (nvml.opened, nvml.sessions) == (1, 0)
    nvml.gpus[0].failing = {}
    assert probe.sample(0).uuid == ONE
    assert (nvml.opened, nvml.sessions) == (2, 1)


def test_a_session_that_cannot_be_ended_is_given_up_all_the_same(nvml: StandInNvml) -> None:
    probe = probe_of(nvml)
    probe.devices()
    nvml.failing = {"shutdown": "GpuIsLost"}
    probe.close()
    assert len(probe.devices()) == 2


def test_one_session_serves_all_questions(nvml: StandInNvml) -> None:
    probe = probe_of(nvml)
    for _ in range(3):
        probe.sample(0)
        probe.used_mb(1, 1)
        probe.driver()
    assert nvml.opened == 1


def test_an_error_does_not_end_the_session_under_another_threads_question(
    nvml: StandInNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe = probe_of(nvml)
    nvml.gpus[1].failing = {"handle": "Unknown"}
    asked, failed = threading.Event(), threading.Event()
    answer = nvml.nvmlDeviceGetMemoryInfo

    def slow_answer(gpu: Gpu) -> SimpleNamespace:
        asked.set()
        failed.wait(0.1)
        return answer(gpu)

    def fail() -> None:
        asked.wait(10)
        with pytest.raises(DeviceUnavailableError):
            probe.sample(1)
        failed.set()

    monkeypatch.setattr(nvml, "nvmlDeviceGetMemoryInfo", slow_answer)
    with ThreadPoolExecutor(1) as pool:
        failing = pool.submit(fail)
        assert probe.sample(0).uuid == ONE
        failing.result(10)


@pytest.mark.parametrize("error", ["GpuIsLost", "NoPermission", "ResetRequired"])
def test_a_device_that_cannot_be_used_is_left_out_of_the_list_and_logged(
    nvml: StandInNvml, error: str, logged: Callable[[], list[dict[str, Any]]]
) -> None:
    nvml.gpus[0].failing = {"handle": error}
    assert [info.index for info in probe_of(nvml).devices()] == [1]
    assert [line["device_index"] for line in logged() if line["message"] == "device_left_out"] == [0]


def test_figures_come_in_mib_shares_degrees_and_watts(nvml: StandInNvml) -> None:
    nvml.gpus[0].busy_percent, nvml.gpus[0].celsius, nvml.gpus[0].milliwatts = 37, 61, 312_500
    sample = probe_of(nvml).sample(0)
    assert (sample.total_mb, sample.free_mb, sample.utilisation) == (24_576.0, 24_000.0, 0.37)
    assert (sample.temperature_c, sample.power_w) == (61.0, 312.5)


def test_a_process_that_is_listed_twice_holds_both(nvml: StandInNvml) -> None:
    nvml.gpus[0].hold(7, 100)
    nvml.gpus[0].hold(7, 50)
    assert probe_of(nvml).used_mb(0, 7) == 150


def test_a_process_whose_memory_is_not_told_is_not_known(nvml: StandInNvml) -> None:
    nvml.gpus[0].hold(7, None)
    assert probe_of(nvml).used_mb(0, 7) is None


def test_a_device_that_took_the_place_of_a_lost_one_is_not_mistaken_for_it(nvml: StandInNvml) -> None:
    probe = probe_of(nvml)
    device = Device(probe, probe.devices()[0])
    assert device.sample().uuid == ONE
    del nvml.gpus[0]
    with pytest.raises(DeviceUnavailableError, match=f"is {TWO} now"):
        device.sample()


def test_the_real_binding_has_everything_that_is_asked_of_the_stand_in() -> None:
    real = importlib.import_module("pynvml")
    asked = [name for name in vars(StandInNvml) if name.startswith("nvml")]
    assert asked
    assert [name for name in asked if not callable(getattr(real, name, None))] == []


def test_the_binding_is_loaded_by_the_first_question_and_not_before(nvml: StandInNvml) -> None:
    loads: list[str] = []

    def load() -> StandInNvml:
        loads.append("pynvml")
        return nvml

    probe = NvmlProbe(load)
    assert loads == []
    probe.driver()
    probe.driver()
    assert loads == ["pynvml"]
