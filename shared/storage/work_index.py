"""Which task does a piece of work, over all workers, for the work that may be shared.

``cache/<cache key>/<number>.json`` is created with If-None-Match, so each number has one task. The highest number
counts; the next one is taken when that task ended without a result, or its result is no longer kept or too old to be
given: then it may soon be deleted (shared/domain/keeping.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from shared.clock import utc_now
from shared.contracts.base import decode, encode
from shared.contracts.cache import Lead
from shared.domain.errors import AlreadyExistsError
from shared.domain.keeping import may_be_given
from shared.domain.task import TaskState
from shared.ids import is_task_id, task_id_seconds
from shared.storage.records import JSON, task_of

if TYPE_CHECKING:
    from shared.clock import Clock
    from shared.contracts.outcome import Artifact, Outcome
    from shared.storage.records import TaskRecords


@dataclass(frozen=True, slots=True)
class Twin:
    """A task that does the same work. ``outcome`` is its result, None while it has not ended."""

    task_id: str
    outcome: Outcome | None


class WorkIndex:
    """Methods raise StorageError when the store cannot be used, DecodeError for what others wrote there."""

    def __init__(self, records: TaskRecords, clock: Clock = utc_now) -> None:
        self._records = records
        self._clock = clock
        self._store = records.store

    def lead(self, key: str, task_id: str, at: datetime) -> Twin | None:
        """Take the lead of this work. None: the task has it. Otherwise who has it, or has done it."""
        number = 1
        while True:
            try:
                self._store.create(_place(key, number), encode(Lead(task_id=task_id, at=at)), media_type=JSON)
            except AlreadyExistsError:
                number, lead = self._last(key)
                if lead is None:
                    continue  # taken away meanwhile
                twin = self._twin(lead)
                if twin is not None:
                    return None if twin.task_id == task_id else twin
                number += 1
            else:
                return None

    def find(self, key: str) -> Outcome | None:
        """The result of this work, if there is one."""
        _, lead = self._last(key)
        twin = None if lead is None else self._twin(lead)
        return None if twin is None else twin.outcome

    def is_kept(self, outcome: Outcome) -> bool:
        """Whether the artifacts are all there still, and stay for as long as whoever gets them counts on them."""
        now = self._clock()
        return all(
            may_be_given(now, _made_at(artifact)) and self._store.exists(artifact.key) for artifact in outcome.artifacts
        )

    def _last(self, key: str) -> tuple[int, Lead | None]:
        last = max(self._store.keys(_folder(key)), default=None)
        if last is None:
            return 1, None
        return int(last.rpartition("/")[2].removesuffix(".json")), decode(Lead, self._store.get(last))

    def _twin(self, lead: Lead) -> Twin | None:
        """Who leads, or None if nothing comes of it any more."""
        outcome = self._records.outcome(lead.task_id)
        if outcome is None:
            return Twin(lead.task_id, None)
        kept = outcome.state is TaskState.SUCCEEDED and self.is_kept(outcome)
        return Twin(lead.task_id, outcome) if kept else None


def _made_at(artifact: Artifact) -> datetime:
    """When the task was submitted that made it, which need not be the one that has it."""
    made_by = task_of(artifact.key)
    return datetime.fromtimestamp(task_id_seconds(made_by) if is_task_id(made_by) else 0, UTC)


def _folder(key: str) -> str:
    return f"cache/{key}/"


def _place(key: str, number: int) -> str:
    return f"{_folder(key)}{number:06d}.json"
