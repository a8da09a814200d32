"""Fills the view from the bucket alone, beside consumers that go on. Doing it twice, or in parts, changes nothing.

Tasks that have not ended leave nothing in the bucket to show: they return with their next event. That everything up to
now has been seen is never said here, since that is for those to say who read the events.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Final

from services.status.errors import ViewStoreError
from shared.ids import is_task_id
from shared.logging import get_logger
from shared.storage.records import TASKS, outcome_key, task_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from services.status.rebuild.ends import EndReader
    from services.status.store.ports import TaskViewStore
    from shared.contracts.event import TaskEvent
    from shared.lifecycle import StopSignal
    from shared.storage.ports import ObjectStore

log = get_logger(__name__)

BATCH_TASKS: Final = 500
# A database that others write to may refuse for a while; after the last of these it is given up.
STORE_BACKOFF_SECONDS: Final = (0.5, 1.0, 2.0, 5.0, 10.0)


@dataclass(slots=True)
class Tally:
    """How far a rebuild has come: tasks that are there again, outcomes that cannot be read, the last task's id."""

    tasks: int = 0
    unreadable: int = 0
    after: str = ""
    complete: bool = False


class Rebuilder:
    """``tell_since``: ends before that are no news any more, and nobody is called back for them."""

    def __init__(
        self, *, objects: ObjectStore, reader: EndReader, store: TaskViewStore, tell_since: datetime | None
    ) -> None:
        self._objects = objects
        self._reader = reader
        self._store = store
        self._tell_since = tell_since
        self.tally = Tally()

    def run(self, stop: StopSignal, after: str = "") -> Tally:
        """Apply the ends of all tasks behind the id ``after``, until there is no more or the process is to stop.

        Raises StorageError and ViewStoreError; ``tally`` says then where to go on.
        """
        self.tally.after = after
        ids = self._ended(after)
        while not stop.is_set():
            batch = list(islice(ids, BATCH_TASKS))
            if not batch:
                self.tally.complete = True
                break
            self._take(batch, stop)
        return self.tally

    def _ended(self, after: str) -> Iterator[str]:
        """The ids of ended tasks, in order."""
        for item in self._objects.listed(TASKS, after=outcome_key(after) if after else ""):
            task_id = task_of(item.key)
            if item.key == outcome_key(task_id) and is_task_id(task_id):
                yield task_id

    def _take(self, task_ids: list[str], stop: StopSignal) -> None:
        found = self._reader.read(task_ids)
        read = [events for events in found if events]
        # In the order of the ids: a replay shows at the task that it is the replay of, which is older.
        self._apply([event for events in read for event in events], stop)
        self.tally.tasks += len(read)
        self.tally.unreadable += found.count(None)
        self.tally.after = task_ids[-1]
        log.info(
            "rebuild_progress", tasks=self.tally.tasks, unreadable=self.tally.unreadable, after_task=self.tally.after
        )

    def _apply(self, events: list[TaskEvent], stop: StopSignal) -> None:
        for seconds in STORE_BACKOFF_SECONDS:
            try:
                self._store.apply_events(events, seen_until=None, tell_since=self._tell_since)
            except ViewStoreError as exc:
                log.warning("view_store_failed", error_message=exc.message, retry_seconds=seconds)
                stop.wait(seconds)
            else:
                return
        self._store.apply_events(events, seen_until=None, tell_since=self._tell_since)
