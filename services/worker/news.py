"""What an execution tells while it runs: how far it is, and now and then what that looks like."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from shared.contracts.event import Preview, Progress, progress_event
from shared.domain.task import Phase

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.worker import protocol
    from services.worker.ports import EventSink
    from shared.clock import Clock
    from shared.contracts.task import TaskMessage

_FIRST_SEQUENCE: Final = 2
# A child that shows more is not believed to need it: what it shows is stored, and sent to all who look on.
_PREVIEW_GAP_SECONDS: Final = 0.5


class TaskNews:
    """Progress events of one execution, in order."""

    def __init__(
        self, task: TaskMessage, events: EventSink, clock: Clock, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._task = task
        self._events = events
        self._clock = clock
        self._monotonic = monotonic
        self._sequence = _FIRST_SEQUENCE
        self._shown_at = -float("inf")

    def heard(self, word: protocol.Progress) -> None:
        """The child told how far it is."""
        self._tell(Progress(phase=Phase(word.phase), step=word.step, steps=word.steps, preview=self._preview(word)))

    def reached(self, phase: str) -> None:
        """A phase that the child knows nothing of."""
        self._tell(Progress(phase=Phase(phase)))

    def _preview(self, word: protocol.Progress) -> Preview | None:
        shown, now = word.preview, self._monotonic()
        if shown is None or now - self._shown_at < _PREVIEW_GAP_SECONDS:
            return None
        self._shown_at = now
        return Preview(media_type=shown.media_type, data=shown.data, width=shown.width, height=shown.height)

    def _tell(self, progress: Progress) -> None:
        self._events.offer(progress_event(self._task, progress, sequence=self._sequence, at=self._clock()))
        self._sequence += 1
