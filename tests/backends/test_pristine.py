"""Whatever a task leaves behind, the next one's picture is bit for bit that of a clean run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from services.worker.backends.pristine.guard import PristineGuard
from services.worker.backends.workbench import Workbench
from tests.backends.pollution import POLLUTIONS, RevealingBackend
from tests.support.generation import Progress, generation_request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Bench:
    """A loaded model that shows every leak."""

    def __init__(self, folder: Path) -> None:
        self.backend = RevealingBackend()
        self.bench = Workbench(self.backend, folder, "cpu")
        self.bench.load("resident")
        self.out = folder

    def picture(self) -> bytes:
        """One task through the workbench."""
        progress = Progress()
        request = generation_request(self.out, width=32, height=32, steps=1)
        worked = self.bench.compute([request], "", progress.report, progress.cancelled)
        self.bench.tidy()
        return self._bytes(worked.generated)

    def unguarded_picture(self) -> bytes:
        """One task that nobody cleans up after."""
        progress = Progress()
        request = generation_request(self.out, width=32, height=32, steps=1)
        return self._bytes(self.backend.generate([request], progress.report, progress.cancelled))

    def _bytes(self, generated: object) -> bytes:
        return bytes(generated.sets[0].pixels[0].tobytes())  # type: ignore[attr-defined] # pictures of this backend


@pytest.fixture(scope="module")
def bench(tiny_newbie: Path) -> Iterator[Bench]:
    before = torch.get_num_threads()
    # The tiny model's kernels are so short that a second thread only waits.
    torch.set_num_threads(1)
    yield Bench(tiny_newbie)
    torch.set_num_threads(before)


@pytest.fixture
def unharmed(bench: Bench) -> Iterator[None]:
    """This process and the shared model, cleaned up after a test that does not."""
    guard = PristineGuard()
    guard.capture(bench.backend.guarded())
    yield
    dirty = guard.restore()
    bench.backend.pollution = None
    if dirty:
        bench.bench._dirty = dirty
        bench.bench.tidy()
    # The test's own pictures have moved what the workbench's guard remembers.
    bench.bench._guard.forget()


@pytest.mark.parametrize("pollution", POLLUTIONS, ids=lambda one: one.__name__)
@pytest.mark.usefixtures("unharmed")
def test_the_task_after_a_pollution_is_as_clean_as_any(
    bench: Bench, pollution: Callable[[RevealingBackend], None]
) -> None:
    clean = bench.picture()
    bench.backend.pollution = pollution
    assert bench.picture() == clean
    bench.backend.pollution = None
    assert bench.picture() == clean


@pytest.mark.parametrize("pollution", POLLUTIONS, ids=lambda one: one.__name__)
@pytest.mark.usefixtures("unharmed")
def test_without_the_guard_the_pollution_shows(bench: Bench, pollution: Callable[[RevealingBackend], None]) -> None:
    guard = PristineGuard()
    guard.capture(bench.backend.guarded())
    clean = bench.unguarded_picture()
    guard.restore()
    pollution(bench.backend)
    try:
        picture = bench.unguarded_picture()
    except (RuntimeError, NotImplementedError, TypeError, AttributeError):
        return
    assert picture != clean
