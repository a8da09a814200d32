"""One computation in the child: its two ends, its signs of life, and how long it may take."""

from __future__ import annotations

import time
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeVar

from shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from services.worker.backends.base import Encoded
    from services.worker.protocol import Computed, Progress
    from shared.domain.errors import TaskError

log = get_logger(__name__)
V = TypeVar("V")

_FORECAST_MARGIN: Final = 1.5


@dataclass(slots=True)
class Job:
    """One computation in the child, of one request or of several.

    ``computed`` comes when the device is free, ``encoded`` when the files of all requests are written.
    """

    job_id: str
    context: dict[str, str | int | None]
    on_progress: Callable[[Progress], None]
    computed: Future[Computed] = field(default_factory=Future)
    encoded: Future[tuple[Encoded, ...]] = field(default_factory=Future)
    rows: int = 1
    began: float = field(default_factory=time.monotonic)
    last_sign: float = field(default_factory=time.monotonic)
    forecast_seconds: float = 0.0
    interruption: TaskError | None = None

    def fail(self, error: Exception) -> None:
        """End both halves, as far as they have not ended. What interrupted the job is why it failed."""
        for future in (self.computed, self.encoded):
            settle(future.set_exception, self.interruption or error)

    def sign(self, word: Progress | None = None) -> None:
        """The child gave a sign of life; steps tell how long the whole will take."""
        self.last_sign = time.monotonic()
        if word is not None and 0 < word.step <= word.steps:
            self.forecast_seconds = (self.last_sign - self.began) * word.steps / word.step


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long a job may take, in seconds: without a sign of progress, in all, and in all while it makes progress."""

    silence_seconds: float
    total_seconds: float
    most_seconds: float = 0.0

    def end(self, job: Job) -> float:
        """When its time is up, on the monotonic clock. One that is slow and steady gets the time it will need."""
        steady = min(job.forecast_seconds * _FORECAST_MARGIN, self.most_seconds)
        return job.began + max(self.total_seconds, steady)


def time_left(job: Job, limits: Limits) -> float:
    """Seconds until it has to give a sign or to be done."""
    return min(limits.end(job), job.last_sign + limits.silence_seconds) - time.monotonic()


def settle(end: Callable[[V], None], value: V) -> None:
    """End a future, if it has not ended. The child's word and our giving up may cross: what came first stands."""
    try:
        end(value)
    except InvalidStateError:
        log.debug("already_ended")
