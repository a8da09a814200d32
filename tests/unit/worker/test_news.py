from __future__ import annotations

from services.worker.fakes import FakeEventSink
from services.worker.news import TaskNews
from services.worker.protocol import Preview, Progress
from shared.contracts.base import decode, encode
from shared.contracts.event import TaskEvent
from shared.domain.task import PREVIEW_MAX_CHARS, Phase
from tests.support.builders import NOW, make_task

SHOWN = Preview(media_type="image/jpeg", data="A" * PREVIEW_MAX_CHARS, width=96, height=64)


class Told:
    def __init__(self) -> None:
        self.seconds = 0.0
        self.sink = FakeEventSink()
        self.news = TaskNews(make_task(), self.sink, lambda: NOW, monotonic=lambda: self.seconds)

    def hear(self, step: int, preview: Preview | None = None) -> None:
        self.news.heard(Progress(job="a", phase="denoising", step=step, steps=9, preview=preview))

    def previews(self) -> list[bool]:
        return [
            event.data.progress is not None and event.data.progress.preview is not None for event in self.sink.events
        ]


def test_progress_is_numbered_from_two_on() -> None:
    told = Told()
    told.hear(1)
    told.news.reached("storing")
    assert [event.sequence for event in told.sink.events] == [2, 3]
    (first, last) = (event.data.progress for event in told.sink.events)
    assert first is not None
    assert last is not None
    assert (first.step, first.steps, last.phase) == (1, 9, Phase.STORING)


def test_the_largest_preview_makes_an_event_that_can_be_read() -> None:
    told = Told()
    told.hear(1, SHOWN)
    (event,) = told.sink.events
    read = decode(TaskEvent, encode(event))
    assert read == event
    assert read.data.progress is not None
    assert read.data.progress.preview is not None
    assert read.data.progress.preview.data == SHOWN.data


def test_a_flood_of_previews_is_thinned_out_and_the_steps_are_told_all_the_same() -> None:
    told = Told()
    for step in range(1, 9):
        told.hear(step, SHOWN)
        told.seconds += 0.2
    assert told.previews() == [True, False, False, True, False, False, True, False]
