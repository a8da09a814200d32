"""What a backend says it made, against what was asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from services.worker.backends.base import ArtifactFile, Encoded, InvalidOutputError
from services.worker.backends.outputs import check_outputs
from tests.support.generation import generation_request

if TYPE_CHECKING:
    from pathlib import Path


def video(**changes: Any) -> ArtifactFile:  # noqa: ANN401 - any field
    fields: dict[str, Any] = {"name": "0.mp4", "media_type": "video/mp4", "width": 64, "height": 48, "seed": 7}
    return ArtifactFile(**{**fields, "frames": 9, "fps": 8.0, **changes})


def poster(**changes: Any) -> ArtifactFile:  # noqa: ANN401 - any field
    fields: dict[str, Any] = {"name": "0.png", "media_type": "image/png", "width": 64, "height": 48, "seed": 7}
    return ArtifactFile(**{**fields, "role": "poster", **changes})


def check(folder: Path, *files: ArtifactFile) -> None:
    for file in files:
        (folder / file.name).write_bytes(b"content")
    check_outputs([generation_request(folder, num_frames=9)], [Encoded(artifacts=files, timings={}, receipt={})])


def test_a_video_may_come_with_a_poster_or_without(tmp_path: Path) -> None:
    check(tmp_path, video())
    check(tmp_path, video(), poster())


@pytest.mark.parametrize(
    ("files", "shown"),
    [
        ((poster(),), "0 seeds, not of the 1"),
        ((video(), poster(role=None)), "2 seeds, not of the 1"),
        ((video(frames=5), poster()), "5 frames where 9 were asked for"),
        ((video(), poster(width=32)), "32x48"),
    ],
)
def test_other_files_than_those_asked_for_are_refused(
    tmp_path: Path, files: tuple[ArtifactFile, ...], shown: str
) -> None:
    with pytest.raises(InvalidOutputError, match=shown):
        check(tmp_path, *files)


def test_a_poster_is_a_file_of_the_model_s_own_as_well(tmp_path: Path) -> None:
    (tmp_path / "0.mp4").write_bytes(b"content")
    (tmp_path / "0.png").symlink_to("/etc/hostname")
    encoded = Encoded(artifacts=(video(), poster()), timings={}, receipt={})
    with pytest.raises(InvalidOutputError, match="no file that the model has written"):
        check_outputs([generation_request(tmp_path, num_frames=9)], [encoded])
