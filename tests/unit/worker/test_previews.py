from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from services.worker.backends import previews
from services.worker.backends.previews import Previews, encoded
from services.worker.protocol import PreviewPace
from shared.domain.task import PREVIEW_MAX_CHARS

if TYPE_CHECKING:
    from numpy.typing import NDArray

STEPS = 100


class Job:
    """A job whose steps take so many seconds each, and which sketches left a trace."""

    def __init__(self, pace: PreviewPace, step_seconds: float) -> None:
        self.now = 1000.0
        self.sketched: list[int] = []
        self.step_seconds = step_seconds
        self.previews = Previews(pace, clock=lambda: self.now)

    def run(self, steps: int = STEPS, *, broken: bool = False) -> list[int]:
        """The steps that came with a preview."""
        shown = []
        for step in range(1, steps + 1):
            self.now += self.step_seconds

            def sketch(step: int = step) -> NDArray[np.uint8]:
                self.sketched.append(step)
                if broken:
                    message = "the decoder is sad"
                    raise RuntimeError(message)
                return np.full((48, 96, 3), step, dtype=np.uint8)

            if self.previews.of(step, steps, sketch) is not None:
                shown.append(step)
        return shown


def pace(steps: int = 5, seconds: float = 2.0) -> PreviewPace:
    return PreviewPace(every_steps=steps, every_seconds=seconds)


@pytest.mark.parametrize(
    ("step_seconds", "of", "shown"),
    [
        (1.0, pace(), list(range(5, STEPS, 5))),
        (0.1, pace(), list(range(20, STEPS, 20))),
        (0.01, pace(), []),
        (1.0, pace(steps=0), []),
        (1.0, pace(steps=1, seconds=10.0), list(range(10, STEPS, 10))),
    ],
)
def test_a_preview_comes_after_so_many_steps_and_so_many_seconds(
    step_seconds: float, of: PreviewPace, shown: list[int]
) -> None:
    job = Job(of, step_seconds)
    assert job.run() == job.sketched == shown


def test_the_last_step_has_none_for_the_picture_itself_is_near() -> None:
    assert Job(pace(), 1.0).run(5) == []


def test_a_job_that_begins_anew_is_shown_anew() -> None:
    job = Job(pace(), 1.0)
    assert job.run(40)[-1] == 35
    assert job.run(12) == [5, 10]


def test_after_a_sketch_that_failed_there_may_be_no_more() -> None:
    job = Job(pace(), 1.0)
    with pytest.raises(RuntimeError, match="the decoder is sad"):
        job.run(broken=True)
    job.previews.stop()
    assert job.run() == []
    assert job.sketched == [5]


def test_a_slow_sketch_is_not_made_more_often() -> None:
    job = Job(pace(steps=1, seconds=2.0), 1.0)

    def slow() -> NDArray[np.uint8]:
        job.now += 60
        return np.zeros((8, 8, 3), dtype=np.uint8)

    job.now += 2
    assert job.previews.of(1, STEPS, slow) is not None
    assert job.previews.of(2, STEPS, slow) is None


def test_what_reports_no_sketch_has_no_preview() -> None:
    assert Previews(pace(seconds=0.0)).of(50, STEPS, None) is None


@pytest.mark.parametrize(("height", "width", "size"), [(1024, 512, (48, 96)), (16, 16, (16, 16)), (96, 96, (96, 96))])
def test_a_preview_is_a_jpeg_no_larger_than_96_pixels(height: int, width: int, size: tuple[int, int]) -> None:
    made = encoded(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))
    assert made is not None
    assert len(made.data) <= PREVIEW_MAX_CHARS
    picture = Image.open(io.BytesIO(base64.b64decode(made.data, validate=True)))
    assert (picture.format, picture.size) == ("JPEG", size) == (made.media_type[6:].upper(), (made.width, made.height))


def test_a_picture_that_takes_too_many_characters_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(previews, "PREVIEW_MAX_CHARS", 100)
    assert encoded(np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)) is None
