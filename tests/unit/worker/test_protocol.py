from __future__ import annotations

import json
import threading
from dataclasses import asdict
from multiprocessing import Pipe
from typing import TYPE_CHECKING, Any

import pytest

from services.worker.backends.base import ArtifactFile, Encoded, Memory
from services.worker.protocol import (
    VERSION,
    Cancel,
    Channel,
    Computed,
    Done,
    Failed,
    Generate,
    Preview,
    PreviewPace,
    Progress,
    Ready,
    Stop,
    Word,
)
from shared.domain.errors import DecodeError
from shared.domain.task import PREVIEW_MAX_CHARS, Phase
from tests.support.generation import generation_request

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection
    from pathlib import Path

MEMORY = Memory(peak_mb=4, allocated_mb=3, reserved_mb=2, rss_mb=1)
FILE = ArtifactFile(name="0.png", media_type="image/png", width=8, height=8, seed=1)
PREVIEW = Preview(media_type="image/jpeg", data="/9j/", width=96, height=64)
WORDS: tuple[Word, ...] = (
    Cancel(job="a"),
    Stop(),
    Ready(seconds=1.5, bytes_on_disk=7, receipt={"model": "m"}, tier="tiled", memory=MEMORY),
    Progress(job="a", phase=Phase.DENOISING, step=1, steps=2),
    Progress(job="a", phase=Phase.DENOISING, step=1, steps=2, preview=PREVIEW),
    Computed(job="a", tier="offload", memory=MEMORY),
    Done(job="a", results=(Encoded(artifacts=(FILE,), timings={"denoise": 0.5}, receipt={}),)),
    Failed(job="a", code="c", message="m", retryable=True, stack="s", tier="tiled", fatal=True),
)


class Ends:
    def __init__(self, near: Connection[Any, Any], far: Connection[Any, Any]) -> None:
        self.raw = near
        self.near, self.far = Channel(near, "launch"), Channel(far, "launch")

    def exchange(self, word: Word) -> Word | None:
        threading.Thread(target=self.near.send, args=(word,)).start()
        return self.far.receive()

    def say(self, kind: str, body: dict[str, Any], version: int = VERSION) -> Word | None:
        frame = {"v": version, "launch": "launch", "kind": kind, "body": body}
        self.raw.send_bytes(json.dumps(frame).encode())
        return self.far.receive()


@pytest.fixture
def ends() -> Iterator[Ends]:
    near, far = Pipe()
    with near, far:
        yield Ends(near, far)


@pytest.mark.parametrize("word", WORDS, ids=lambda word: type(word).__name__)
def test_every_word_arrives_as_it_was_said(ends: Ends, word: Word) -> None:
    assert ends.exchange(word) == word


def test_a_job_arrives_with_its_tier(ends: Ends, tmp_path: Path) -> None:
    word = Generate(job="a", requests=(generation_request(tmp_path),), tier="offload")
    assert ends.exchange(word) == word


def test_a_word_of_the_version_before_is_refused(ends: Ends) -> None:
    with pytest.raises(DecodeError, match=f"speaks protocol version {VERSION - 1}"):
        ends.say("Stop", {}, VERSION - 1)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("Computed", {"job": "a"}),
        ("Computed", {"job": "a", "tier": "t", "memory": {"peak_mb": "much"}}),
        ("Computed", {"job": "a", "tier": "t", "memory": {"peak_mb": 1.5}}),
        ("Computed", {"job": "a", "tier": "t", "memory": {"swap_mb": 1}}),
        ("Computed", {"job": "a", "tier": "t", "memory": None}),
        ("Computed", {"job": "a", "tier": None, "memory": {}}),
        ("Failed", {"job": "a", "code": "c", "message": "m", "retryable": True, "fatal": "no"}),
        ("Ready", {"seconds": 1, "bytes_on_disk": 1}),
        ("Generate", {"job": "a", "requests": [], "tier": 5}),
    ],
)
def test_a_word_with_a_field_missing_or_of_another_type_is_refused(ends: Ends, kind: str, body: dict[str, Any]) -> None:
    with pytest.raises(DecodeError):
        ends.say(kind, body)


@pytest.mark.parametrize(
    "changes",
    [
        {"data": "A" * (PREVIEW_MAX_CHARS + 4)},
        {"data": ""},
        {"data": "<script>"},
        {"data": "AAA"},
        {"data": 5},
        {"media_type": "text/html"},
        {"media_type": "image/svg+xml"},
        {"width": 0},
        {"height": 513},
        {"width": 1.5},
        {"colour": "red"},
    ],
)
def test_a_preview_that_is_no_small_picture_is_refused(ends: Ends, changes: dict[str, Any]) -> None:
    body = {"job": "a", "phase": "denoising", "step": 1, "steps": 2, "preview": {**asdict(PREVIEW), **changes}}
    with pytest.raises(DecodeError):
        ends.say("Progress", body)


def test_the_largest_preview_passes(ends: Ends) -> None:
    largest = asdict(PREVIEW) | {"data": "A" * PREVIEW_MAX_CHARS}
    word = ends.say("Progress", {"job": "a", "phase": "denoising", "step": 1, "steps": 2, "preview": largest})
    assert isinstance(word, Progress)
    assert word.preview == Preview(**largest)


def test_a_pace_arrives_as_it_was_said() -> None:
    pace = PreviewPace(every_steps=3, every_seconds=1.25)
    assert PreviewPace.from_argument(pace.to_argument()) == pace


def test_an_image_travels_as_a_file_of_its_tasks_folder(ends: Ends, tmp_path: Path) -> None:
    word = Generate(job="a", requests=(generation_request(tmp_path, image=tmp_path / "input.png"),))
    assert ends.exchange(word) == word


@pytest.mark.parametrize("image", ["/etc/passwd", "input.png", "{folder}/../input.png", "{folder}/deeper/input.png", 5])
def test_an_image_from_elsewhere_is_no_message(ends: Ends, tmp_path: Path, image: object) -> None:
    body = asdict(generation_request(tmp_path))
    body["image"] = image.format(folder=tmp_path) if isinstance(image, str) else image
    body["out_dir"] = str(tmp_path)
    with pytest.raises(DecodeError):
        ends.say("Generate", {"job": "a", "requests": [body]})
