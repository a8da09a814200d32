"""Deletes what tasks made when their plan's time is over. Their outcomes stay: that they ended remains true."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Final

from shared.domain.errors import DecodeError
from shared.ids import is_task_id, task_id_seconds
from shared.logging import get_logger
from shared.storage.records import TASKS, outcome_key, task_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from services.status.lifecycle.keep_times import KeepTimes
    from services.status.lifecycle.tally import Tally
    from shared.storage.records import TaskRecords

log = get_logger(__name__)

# Of most old tasks nothing but the outcome is left; a piece of work passes over so many of those for each other one.
_TASKS_PER_LIMIT: Final = 50


class ArtifactSweep:
    """Goes through the tasks by age. ``delete`` deletes a key, or only says so."""

    def __init__(self, records: TaskRecords, delete: Callable[[str], None]) -> None:
        self._records = records
        self._delete = delete
        self._after = ""

    def begin(self) -> None:
        """Start with the oldest task."""
        self._after = ""

    def run(self, now: datetime, limit: int, times: KeepTimes, tally: Tally) -> bool:
        """Look at so many tasks of which more than the outcome is left. Returns whether there may be more.

        Raises StorageError.
        """
        looked = 0
        for passed, (task_id, keys) in enumerate(self._tasks()):
            if looked >= limit or passed >= limit * _TASKS_PER_LIMIT:
                return True
            if is_task_id(task_id):
                if now - datetime.fromtimestamp(task_id_seconds(task_id), UTC) < times.shortest:
                    return False  # and all behind it are younger
                left = [key for key in keys if key != outcome_key(task_id)]
                if left and len(left) < len(keys):
                    looked += 1
                    self._look(task_id, left, now, times, tally)
            self._after = keys[-1]
        return False

    def _tasks(self) -> Iterator[tuple[str, list[str]]]:
        listed = self._records.store.listed(TASKS, after=self._after)
        for task_id, items in groupby(listed, key=lambda item: task_of(item.key)):
            yield task_id, [item.key for item in items]

    def _look(self, task_id: str, keys: list[str], now: datetime, times: KeepTimes, tally: Tally) -> None:
        try:
            outcome = self._records.outcome(task_id)
        except DecodeError as exc:
            tally.unreadable += 1
            log.warning("outcome_unreadable", task_id=task_id, error_code=exc.code, error_message=exc.message)
            return
        if outcome is None or now < times.until(outcome):
            return
        for key in keys:
            self._delete(key)
        tally.tasks += 1
        tally.objects += len(keys)
        log.info("artifacts_expired", task_id=task_id, tenant_id=outcome.task.tenant_id, objects=len(keys))
