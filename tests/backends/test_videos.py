"""Videos as files, without a model."""

from __future__ import annotations

import errno
import resource
import struct
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest

from services.worker.backends.base import InvalidOutputError
from services.worker.backends.videos import VideoSet, write_mp4
from tests.support.generation import generation_request

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

METADATA = {"task_id": "0196f0c4-0000-7000-8000-000000000001", "seed": "7"}
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0]], dtype=np.uint8)


def fields_of_colour() -> NDArray[np.uint8]:
    """Five frames (48, 64), each of one colour."""
    return np.broadcast_to(COLOURS[:, None, None, :], (5, 48, 64, 3)).copy()


def boxes(data: bytes) -> list[str]:
    """The names of an MP4's outer boxes, in the file's order."""
    names, at = [], 0
    while at < len(data):
        size, name = struct.unpack(">I4s", data[at : at + 8])
        names.append(name.decode())
        at += size
    return names


def test_what_is_written_is_read_back_with_its_size_rate_and_colours(tmp_path: Path) -> None:
    write_mp4(fields_of_colour(), tmp_path / "0.mp4", 8.0, METADATA)
    with av.open(str(tmp_path / "0.mp4")) as container:
        (stream,) = container.streams
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        context: Any = stream.codec_context
        assert (context.name, context.pix_fmt, stream.frames) == ("h264", "yuv420p", 5)
        assert stream.average_rate == Fraction(8)
        assert {**METADATA, **container.metadata} == container.metadata
    assert frames.shape == (5, 48, 64, 3)
    assert np.abs(frames.astype(int) - fields_of_colour()).max() <= 3


def test_the_index_comes_before_the_frames(tmp_path: Path) -> None:
    write_mp4(fields_of_colour(), tmp_path / "0.mp4", 8.0, METADATA)
    found = boxes((tmp_path / "0.mp4").read_bytes())
    assert found.index("moov") < found.index("mdat")


def test_equal_frames_give_equal_bytes_and_another_rate_others(tmp_path: Path) -> None:
    for name, fps in (("a", 8.0), ("b", 8.0), ("c", 23.976)):
        write_mp4(fields_of_colour(), tmp_path / name, fps, METADATA)
    first, second, other = ((tmp_path / name).read_bytes() for name in "abc")
    assert first == second != other
    with av.open(str(tmp_path / "c")) as container:
        assert float(container.streams.video[0].average_rate or 0) == pytest.approx(23.976, abs=0.01)


@pytest.fixture
def little_room() -> Iterator[None]:
    """No file may grow beyond 2000 bytes, as where a disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("little_room")
def test_a_disk_without_room_is_an_error_and_no_short_file(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (9, 64, 64, 3), dtype=np.uint8)
    with pytest.raises(OSError, match="too large") as raised:
        write_mp4(noise, tmp_path / "0.mp4", 8.0, METADATA)
    assert raised.value.errno == errno.EFBIG


@pytest.mark.parametrize(
    ("videos", "shown"),
    [
        ((), "0 videos for 1 seeds"),
        ((fields_of_colour()[:4],), r"\(4, 48, 64, 3\)"),
        ((fields_of_colour()[:, :32],), r"\(5, 32, 64, 3\)"),
        ((fields_of_colour().astype(np.float32),), "float32"),
    ],
)
def test_what_was_not_asked_for_is_not_written(tmp_path: Path, videos: tuple[Any, ...], shown: str) -> None:
    request = generation_request(tmp_path, num_frames=5)
    made = VideoSet(request=request, model_id="tiny", videos=videos, fps=8.0, timings={}, receipt={})
    with pytest.raises(InvalidOutputError, match=shown):
        made.write()
    assert list(tmp_path.iterdir()) == []
