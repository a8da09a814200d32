"""Tells the gateways how this worker is and what tasks cost here, in the background; a lost report is no loss."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from shared.contracts.worker_report import WorkerReport, WorkerState
from shared.domain.errors import BrokerError
from shared.logging import get_logger
from shared.messaging.messages import worker_report

if TYPE_CHECKING:
    from collections.abc import Callable

    from shared.clock import Clock
    from shared.contracts.worker_report import TierReport
    from shared.messaging.ports import Publisher

log = get_logger(__name__)

_PUBLISH_SECONDS: Final = 5.0


class Teacher(Protocol):
    """What was learnt, and a number that grows with it."""

    @property
    def version(self) -> int:
        """Grows with everything that is learnt."""
        ...

    def tiers(self) -> tuple[TierReport, ...]:
        """What each tier costs."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ReporterFacts:
    """Who reports. ``capacity_mb``: what a task may take, ``revision``: the loaded model's; None if unknown."""

    worker: str
    model: str
    device: str
    capacity_mb: int | None
    revision: Callable[[], str | None] = lambda: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """Seconds between reports: of a changed state, of something learnt, and of nothing new."""

    changed: float = 1.0
    learnt: float = 10.0
    unchanged: float = 30.0


class Reporter:
    """Reports from a thread of its own. Changes within a second are told together."""

    def __init__(
        self, *, publisher: Publisher, teacher: Teacher, facts: ReporterFacts, clock: Clock, pace: Pace | None = None
    ) -> None:
        self._publisher = publisher
        self._teacher = teacher
        self._facts = facts
        self._clock = clock
        self._pace = pace or Pace()
        self._changed = threading.Condition()
        self._state = WorkerState.STARTING
        self._told: tuple[WorkerState, int] | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="worker-reporter", daemon=True)

    def start(self) -> None:
        """Begin to report, with ``starting``."""
        self._thread.start()

    def stop(self) -> None:
        """Tell that this worker takes no more, then end."""
        with self._changed:
            self._state = WorkerState.DRAINING
            self._stopping = True
            self._changed.notify()
        self._thread.join(2 * _PUBLISH_SECONDS)

    def state(self, state: WorkerState) -> None:
        """The worker's state from now on; never waits."""
        with self._changed:
            self._state = state
            self._changed.notify()

    def _run(self) -> None:
        told_at = -float("inf")
        while self._wait_until_due(told_at):
            told_at = time.monotonic()
            self._tell()
        if self._told is None or self._told[0] is not WorkerState.DRAINING:
            self._tell()

    def _wait_until_due(self, told_at: float) -> bool:
        """Return True when there is something to tell, False when the worker stops."""
        with self._changed:
            while not self._stopping:
                wait = told_at + self._patience() - time.monotonic()
                if wait <= 0:
                    return True
                # What is learnt wakes nobody, so it is looked at often enough.
                self._changed.wait(min(wait, self._pace.learnt))
            return False

    def _patience(self) -> float:
        if self._told is None or self._told[0] is not self._state:
            return self._pace.changed
        return self._pace.unchanged if self._told[1] == self._teacher.version else self._pace.learnt

    def _tell(self) -> None:
        with self._changed:
            state, version = self._state, self._teacher.version
        report = WorkerReport(
            worker=self._facts.worker,
            model=self._facts.model,
            device=self._facts.device,
            state=state,
            at=self._clock(),
            tiers=self._teacher.tiers(),
            capacity_mb=self._facts.capacity_mb,
            revision=self._facts.revision(),
        )
        try:
            self._publisher.publish(worker_report(report), timeout=_PUBLISH_SECONDS)
        except BrokerError as exc:
            self._told = None
            log.info("worker_report_not_sent", state=state, error_code=exc.code, error_message=exc.message)
        else:
            self._told = state, version
