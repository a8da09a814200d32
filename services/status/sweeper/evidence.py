"""What speaks for a task's message being lost, and for how long it has. Pure.

The broker cannot be asked whether it holds a certain message, and each copy that is published on suspicion makes the
queues longer. So a message counts as lost only by what is seen elsewhere, and seen again some time later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime, timedelta

    from services.status.work import Front, Work


@dataclass(frozen=True, slots=True)
class Margins:
    """``silent``: a task of which nothing was heard for so long is looked at. The others follow from it.

    ``certain`` is longer than a worker holds a message unclaimed for want of memory, or the broker takes to notice that
    a worker is gone.
    """

    silent: timedelta

    @property
    def certain(self) -> timedelta:
        """How long there must have been evidence."""
        return 1.5 * self.silent

    @property
    def again(self) -> timedelta:
        """How long one more copy is waited for before another one is made."""
        return 10 * self.silent


class QueueLooks:
    """When queues were seen empty.

    A look counts from when the view has seen everything up to it: a task that waits even then was not in the queue.
    """

    def __init__(self) -> None:
        self._looked: dict[str, datetime] = {}
        self._counts: dict[str, datetime] = {}

    def confirm(self, seen_until: datetime | None) -> None:
        """The view has seen everything up to a time; what was confirmed before counts no more."""
        reached = {model: at for model, at in self._looked.items() if seen_until is not None and seen_until >= at}
        self._counts = reached
        for model in reached:
            del self._looked[model]

    def awaits(self, model: str) -> bool:
        """Whether a look at this model's queue is still to be confirmed."""
        return model in self._looked

    def saw_empty(self, model: str, at: datetime) -> None:
        """The queue held nothing at that time."""
        self._looked[model] = at

    def empty_at(self, model: str) -> datetime | None:
        """When the queue was empty, if a look counts now."""
        return self._counts.get(model)


def is_missed(work: Work, empty_at: datetime | None, fronts: Iterable[Front], silent: timedelta) -> bool:
    """Whether the queue was empty when the task should have lain there, or it was passed over.

    Levels are strict, and within a level the older is served first: so if a task that was ready later has been started
    from no higher level, the queue does not hold this one.
    """
    latest = work.ready_at + silent
    if empty_at is not None and empty_at >= latest:
        return True
    return any(front.level <= work.level and front.ready_at >= latest for front in fronts)


class Suspicions:
    """Since when there has been evidence against which attempts."""

    def __init__(self, margins: Margins) -> None:
        self._margins = margins
        self._since: dict[tuple[str, int], datetime] = {}
        self._seen: set[tuple[str, int]] = set()

    def is_certain(self, work: Work, now: datetime, *, missed: bool) -> bool:
        """Whether there is evidence now, was some ``certain`` ago, and nothing was done since ``again``.

        That there is none just now takes nothing back: queues are not empty at every look.
        """
        key = (work.task_id, work.attempt)
        self._seen.add(key)
        if not missed:
            return False
        return now - self._since.setdefault(key, now) >= self._margins.certain

    def acted(self, work: Work, now: datetime) -> None:
        """Something was done about it: give it time to come of it."""
        self._since[work.task_id, work.attempt] = now + self._margins.again - self._margins.certain

    def clear(self, work: Work) -> None:
        """All is well with it: what was evidence is none."""
        self._since.pop((work.task_id, work.attempt), None)

    def end_round(self) -> None:
        """Every open task was looked at: forget the others."""
        self._since = {key: since for key, since in self._since.items() if key in self._seen}
        self._seen.clear()
