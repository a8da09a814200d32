from __future__ import annotations

import gc
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from services.worker.backends import simulated
from services.worker.backends.base import GenerationCancelledError, OutOfMemoryError
from services.worker.backends.simulated import CANCEL_POLL_SECONDS, SimulatedBackend
from shared.domain.errors import ConfigurationError
from tests.support.generation import Progress, generation_request

if TYPE_CHECKING:
    from pathlib import Path

    from services.worker.backends.base import Sketch


class Clock:
    """Stands for the time module: sleeping moves it, and every call costs a little, as in life."""

    def __init__(self, cost_seconds: float = 0.0) -> None:
        self.now = 100.0
        self.cost_seconds = cost_seconds
        self.longest = 0.0

    def monotonic(self) -> float:
        self.now += self.cost_seconds
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.longest = max(self.longest, seconds)


def backend(folder: Path, **settings: float) -> SimulatedBackend:
    lines = [f"{name} = {value}" for name, value in settings.items()]
    (folder / "atelier.toml").write_text("\n".join(['[model]\nid = "simulated"\n[simulated]', *lines]))
    made = SimulatedBackend()
    made.load(folder, "cpu", "resident")
    return made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(simulated, "time", made)
    return made


def test_a_picture_costs_its_steps_and_no_drift_adds_up(tmp_path: Path, clock: Clock) -> None:
    made = backend(tmp_path, seconds_per_step=0.07)
    clock.cost_seconds = 1e-4
    progress = Progress()
    started = clock.now
    made.generate([generation_request(tmp_path, steps=1000, seeds=(1, 2))], progress.report, progress.cancelled)
    # 140 s of steps; the calls themselves cost 1e-4 each and would add up to seconds if steps were slept one by one.
    assert clock.now - started == pytest.approx(140.0, abs=0.001)
    assert progress.seen[-2] == ("denoising", 2000, 2000)


def test_loading_costs_the_configured_seconds(tmp_path: Path, clock: Clock) -> None:
    started = clock.now
    backend(tmp_path, load_seconds=3.0)
    assert clock.now - started == pytest.approx(3.0)


def test_it_listens_at_least_every_fifty_milliseconds(tmp_path: Path, clock: Clock) -> None:
    made = backend(tmp_path, seconds_per_step=10.0)
    clock.longest = 0.0
    deadline = clock.now + 1.0
    progress = Progress()
    with pytest.raises(GenerationCancelledError):
        made.generate([generation_request(tmp_path)], progress.report, lambda: clock.now >= deadline)
    assert clock.longest <= CANCEL_POLL_SECONDS <= 0.05
    assert clock.now <= deadline + CANCEL_POLL_SECONDS
    assert [phase for phase, _, _ in progress.seen] == ["encoding"]


@pytest.mark.exhaustive
def test_memory_is_held_while_generating_only(tmp_path: Path) -> None:
    resident: list[int] = []

    def resident_mb() -> int:
        with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123 - a kernel file
            return int(statm.read().split()[1]) * 4096 >> 20

    # More than what other tests of this process may have left resident and free for use again.
    made = backend(tmp_path, seconds_per_step=0.0, memory_mb=256)
    gc.collect()
    before = resident_mb()
    progress = Progress()

    def report(phase: str, step: int = 0, steps: int = 0, sketch: Sketch | None = None) -> None:
        progress.report(phase, step, steps, sketch)
        if phase == "denoising":
            resident.append(resident_mb())

    made.generate([generation_request(tmp_path)], report, progress.cancelled)
    assert min(resident) - before >= 128
    assert resident_mb() - before < 64


def test_memory_that_cannot_be_had_is_its_own_error(tmp_path: Path) -> None:
    made = backend(tmp_path, seconds_per_step=0.0, memory_mb=2**40)
    progress = Progress()
    with pytest.raises(OutOfMemoryError):
        made.generate([generation_request(tmp_path)], progress.report, progress.cancelled)


def test_a_simulated_device_holds_less_than_a_large_picture_needs_and_a_lower_tier_needs_less(tmp_path: Path) -> None:
    made = backend(tmp_path, seconds_per_step=0.0, memory_mb=10, memory_mb_per_megapixel=1000, device_mb=12)
    progress = Progress()
    small = generation_request(tmp_path, width=32, height=32)
    large = generation_request(tmp_path, width=64, height=64)
    made.generate([small], progress.report, progress.cancelled)
    with pytest.raises(OutOfMemoryError, match=r"needs 14\.096 MiB, the simulated device has 12"):
        made.generate([large], progress.report, progress.cancelled)
    made.set_tier("tiled")
    (encoded,) = made.generate([large], progress.report, progress.cancelled).encode()
    assert encoded.receipt["tier"] == "tiled"


@pytest.mark.parametrize("settings", [{"seconds_per_step": -1}, {"seconds_per_step": "inf"}, {"speed": 1}])
def test_a_wrong_setting_is_refused_by_name(tmp_path: Path, settings: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        backend(tmp_path, **settings)


def test_the_module_needs_no_torch() -> None:
    code = "import sys, services.worker.backends.simulated; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_sketch_is_small_and_comes_out_of_grey(tmp_path: Path) -> None:
    made = backend(tmp_path, seconds_per_step=0.0)
    progress = Progress(sketching=True)
    request = generation_request(tmp_path, width=400, height=200, steps=4)
    (pictures,) = made.generate([request], progress.report, progress.cancelled).sets
    assert {sketch.shape for sketch in progress.sketches} == {(40, 80, 3)}
    distances = [float(abs(sketch.astype(float) - 128).mean()) for sketch in progress.sketches]
    assert distances == sorted(distances)
    assert (progress.sketches[-1] == pictures.pixels[0][::5, ::5]).all()
