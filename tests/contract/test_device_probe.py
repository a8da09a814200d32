"""What every probe of devices must do, made up or real."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

import pytest

from services.worker.gpu import DeviceUnavailableError
from services.worker.gpu_fakes import FakeDevice, FakeProbe, FileProbe, write_devices
from services.worker.host_probe import HostProbe
from services.worker.nvml import NvmlProbe
from tests.support.nvml import Gpu, StandInNvml

if TYPE_CHECKING:
    from pathlib import Path

    from services.worker.gpu import DeviceProbe

FIRST, SECOND = "GPU-11111111-aaaa", "GPU-22222222-bbbb"
PID = 4711


class ReadingContract:
    """Of every probe, whatever it reads. Inherit and provide the ``probe`` fixture."""

    def test_devices_are_listed_in_order_and_each_is_another_one(self, probe: DeviceProbe) -> None:
        found = probe.devices()
        assert found
        assert [info.index for info in found] == sorted(info.index for info in found)
        assert len({info.uuid for info in found}) == len(found)
        assert all(info.name for info in found)

    def test_a_sample_is_of_the_device_that_was_asked_and_within_its_bounds(self, probe: DeviceProbe) -> None:
        for info in probe.devices():
            sample = probe.sample(info.index)
            assert (sample.uuid, sample.name) == (info.uuid, info.name)
            assert 0 <= sample.free_mb <= sample.total_mb
            assert sample.total_mb > 0
            assert 0 <= sample.utilisation <= 1

    def test_a_device_that_does_not_exist_is_unavailable(self, probe: DeviceProbe) -> None:
        with pytest.raises(DeviceUnavailableError):
            probe.sample(len(probe.devices()) + 7)
        with pytest.raises(DeviceUnavailableError):
            probe.used_mb(len(probe.devices()) + 7, PID)

    def test_a_failed_question_spoils_no_later_one(self, probe: DeviceProbe) -> None:
        before = probe.devices()
        with pytest.raises(DeviceUnavailableError):
            probe.sample(len(before) + 7)
        assert probe.sample(before[0].index).uuid == before[0].uuid

    def test_closing_twice_is_once_and_a_later_question_opens_again(self, probe: DeviceProbe) -> None:
        before = probe.devices()
        probe.close()
        probe.close()
        assert probe.devices() == before

    def test_the_driver_has_a_version_or_there_is_none(self, probe: DeviceProbe) -> None:
        assert probe.driver() == probe.driver().strip()


class Stage(Protocol):
    """Two GPUs, FIRST and SECOND, of 1000 MiB each, that a test moves."""

    probe: DeviceProbe

    def figures(self, index: int, *, free_mb: float, utilisation: float) -> None: ...
    def hold(self, index: int, pid: int, mb: float) -> None: ...
    def hush(self, index: int) -> None:
        """It no longer tells utilisation, temperature, power and processes."""

    def lose(self, index: int) -> None: ...
    def find(self, index: int) -> None: ...
    def driver(self, *, answers: bool) -> None: ...


class MovingContract(ReadingContract):
    """Of every probe whose devices a test can move. Inherit and provide the ``stage`` fixture."""

    @pytest.fixture
    def probe(self, stage: Stage) -> DeviceProbe:
        return stage.probe

    def test_each_sample_shows_the_figures_of_its_moment(self, stage: Stage) -> None:
        for free, busy in ((1000.0, 0.0), (400.0, 0.5), (900.0, 1.0)):
            stage.figures(1, free_mb=free, utilisation=busy)
            sample = stage.probe.sample(1)
            assert (sample.total_mb, sample.free_mb, sample.utilisation) == (1000.0, free, busy)

    def test_what_a_device_does_not_tell_is_absent_and_it_counts_as_idle(self, stage: Stage) -> None:
        stage.figures(0, free_mb=1000, utilisation=0.9)
        stage.hush(0)
        sample = stage.probe.sample(0)
        assert (sample.utilisation, sample.temperature_c, sample.power_w) == (0.0, None, None)

    def test_the_memory_of_a_process_is_told_by_its_id_on_the_device_that_holds_it(self, stage: Stage) -> None:
        stage.hold(0, PID, 250)
        assert stage.probe.used_mb(0, PID) == 250
        assert stage.probe.used_mb(0, PID + 1) is None
        assert stage.probe.used_mb(1, PID) is None

    def test_processes_that_are_not_told_are_not_known(self, stage: Stage) -> None:
        stage.hold(0, PID, 250)
        stage.hush(0)
        assert stage.probe.used_mb(0, PID) is None

    def test_a_lost_device_is_unavailable_and_unlisted_and_the_other_one_still_answers(self, stage: Stage) -> None:
        stage.lose(0)
        with pytest.raises(DeviceUnavailableError):
            stage.probe.sample(0)
        assert [info.uuid for info in stage.probe.devices()] == [SECOND]
        assert stage.probe.sample(1).uuid == SECOND

    def test_a_device_that_came_back_answers_again(self, stage: Stage) -> None:
        stage.lose(0)
        with pytest.raises(DeviceUnavailableError):
            stage.probe.sample(0)
        stage.find(0)
        assert stage.probe.sample(0).uuid == FIRST

    def test_nothing_is_available_without_the_driver_and_everything_is_once_it_is_there(self, stage: Stage) -> None:
        stage.driver(answers=False)
        stage.probe.close()
        for ask in (stage.probe.devices, lambda: stage.probe.sample(0), stage.probe.driver):
            with pytest.raises(DeviceUnavailableError):
                ask()
        stage.driver(answers=True)
        assert len(stage.probe.devices()) == 2


class FakeStage:
    def __init__(self) -> None:
        self.probe = FakeProbe(*(FakeDevice(uuid=uuid, total_mb=1000, free_mb=1000) for uuid in (FIRST, SECOND)))

    def figures(self, index: int, *, free_mb: float, utilisation: float) -> None:
        self.probe.now(index, free_mb=free_mb, utilisation=utilisation)

    def hold(self, index: int, pid: int, mb: float) -> None:
        self.probe.now(index, held_mb={pid: mb})

    def hush(self, index: int) -> None:
        self.probe.now(index, utilisation=0.0, temperature_c=None, power_w=None, held_mb=None)

    def lose(self, index: int) -> None:
        self.probe.now(index, lost=True)

    def find(self, index: int) -> None:
        self.probe.now(index, lost=False)

    def driver(self, *, answers: bool) -> None:
        self.probe.fail(None if answers else "no driver")


class FileStage:
    def __init__(self, path: Path) -> None:
        self.probe = FileProbe(path)
        self._path = path
        self._devices = [FakeDevice(uuid=uuid, total_mb=1000, free_mb=1000) for uuid in (FIRST, SECOND)]
        self._write()

    def _write(self, error: str | None = None) -> None:
        write_devices(self._path, self._devices, error=error)

    def _change(self, index: int, **changes: object) -> None:
        self._devices[index] = self._devices[index].changed(**changes)
        self._write()

    def figures(self, index: int, *, free_mb: float, utilisation: float) -> None:
        self._change(index, free_mb=free_mb, utilisation=utilisation)

    def hold(self, index: int, pid: int, mb: float) -> None:
        self._change(index, held_mb={pid: mb})

    def hush(self, index: int) -> None:
        self._change(index, utilisation=0.0, temperature_c=None, power_w=None, held_mb=None)

    def lose(self, index: int) -> None:
        self._change(index, lost=True)

    def find(self, index: int) -> None:
        self._change(index, lost=False)

    def driver(self, *, answers: bool) -> None:
        self._write(None if answers else "no driver")


class NvmlStage:
    def __init__(self) -> None:
        self.nvml = StandInNvml(*(Gpu(uuid=uuid, total_mb=1000, free_mb=1000) for uuid in (FIRST, SECOND)))
        self.probe = NvmlProbe(lambda: self.nvml)

    def figures(self, index: int, *, free_mb: float, utilisation: float) -> None:
        self.nvml.gpus[index].free_mb = free_mb
        self.nvml.gpus[index].busy_percent = round(utilisation * 100)

    def hold(self, index: int, pid: int, mb: float) -> None:
        self.nvml.gpus[index].hold(pid, mb)

    def hush(self, index: int) -> None:
        untold = ("utilisation", "temperature", "power", "processes")
        self.nvml.gpus[index].failing = dict.fromkeys(untold, "NotSupported")

    def lose(self, index: int) -> None:
        self.nvml.gpus[index].failing = {"handle": "GpuIsLost"}

    def find(self, index: int) -> None:
        self.nvml.gpus[index].failing = {}

    def driver(self, *, answers: bool) -> None:
        self.nvml.failing = {} if answers else {"init": "DriverNotLoaded"}


class TestFakeProbe(MovingContract):
    @pytest.fixture
    def stage(self) -> FakeStage:
        return FakeStage()


class TestFileProbe(MovingContract):
    @pytest.fixture
    def stage(self, tmp_path: Path) -> FileStage:
        return FileStage(tmp_path / "devices.json")


class TestNvmlProbeOverAStandIn(MovingContract):
    @pytest.fixture
    def stage(self) -> NvmlStage:
        return NvmlStage()


class TestHostProbe(ReadingContract):
    @pytest.fixture
    def probe(self) -> HostProbe:
        return HostProbe()

    def test_this_very_process_holds_memory(self, probe: HostProbe) -> None:
        used = probe.used_mb(0, os.getpid())
        assert used is not None
        assert 1 < used < probe.sample(0).total_mb


@pytest.mark.gpu
class TestNvmlProbeOnAGpu(ReadingContract):
    @pytest.fixture
    def probe(self) -> NvmlProbe:
        return NvmlProbe()

    def test_asking_leaves_nothing_of_ours_on_the_device(self, probe: NvmlProbe) -> None:
        for info in probe.devices():
            probe.sample(info.index)
            assert probe.used_mb(info.index, os.getpid()) is None
        assert probe.driver()
