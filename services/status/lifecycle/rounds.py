"""Rounds through the bucket, piece by piece: what tasks made, then what is old below other prefixes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.status.lifecycle.artifacts import ArtifactSweep
from services.status.lifecycle.tally import Tally
from shared.domain.keeping import INPUTS_KEPT_FOR, LEADS_KEPT_FOR, LEASES_KEPT_FOR, PROBES_KEPT_FOR
from shared.logging import get_logger
from shared.storage.inputs import INPUTS

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime, timedelta

    from services.status.lifecycle.keep_times import KeepTimes
    from shared.storage.records import TaskRecords

log = get_logger(__name__)

# By the store's clock. A lead names a task; one that is so old leads to nothing that is given any more.
_KEPT_FOR: Final[dict[str, timedelta]] = {
    "cache/": LEADS_KEPT_FOR,
    INPUTS: INPUTS_KEPT_FOR,
    "workers/": LEASES_KEPT_FOR,
    "probes/": PROBES_KEPT_FOR,
}
_OBJECTS_PER_LIMIT: Final = 50


class Lifecycle:
    """Two at once do what one does: deleting twice is deleting once. Methods raise StorageError, TenantStoreError."""

    def __init__(self, *, records: TaskRecords, read_times: Callable[[], KeepTimes], dry_run: bool = False) -> None:
        self._store = records.store
        self._read_times = read_times
        self._dry_run = dry_run
        self._artifacts = ArtifactSweep(records, self._delete)
        self._times: KeepTimes | None = None
        self._prefixes: list[str] = []
        self._after = ""
        self.tally = Tally()

    def run(self, now: datetime, limit: int) -> bool:
        """Do a piece of a round, or of the next one. Returns whether the round goes on."""
        if self._times is None:
            self._begin()
        if self._times is not None and self._artifacts.run(now, limit, self._times, self.tally):
            return True
        if self._age(now, limit):
            return True
        log.info(
            "lifecycle_round_ended",
            tasks=self.tally.tasks,
            objects=self.tally.objects,
            others=self.tally.others,
            unreadable=self.tally.unreadable,
            dry_run=self._dry_run,
        )
        self._times = None
        return False

    def _begin(self) -> None:
        self._times = self._read_times()
        self._artifacts.begin()
        self._prefixes, self._after = list(_KEPT_FOR), ""
        self.tally = Tally()

    def _age(self, now: datetime, limit: int) -> bool:
        """Delete what is old below the other prefixes. Returns whether there may be more."""
        left = limit * _OBJECTS_PER_LIMIT
        while self._prefixes:
            prefix = self._prefixes[0]
            for item in self._store.listed(prefix, after=self._after):
                if left <= 0:
                    return True
                left -= 1
                if now - item.modified_at >= _KEPT_FOR[prefix]:
                    self._delete(item.key)
                    self.tally.others += 1
                    left -= _OBJECTS_PER_LIMIT
                self._after = item.key
            self._prefixes.pop(0)
            self._after = ""
        return False

    def _delete(self, key: str) -> None:
        if not self._dry_run:
            self._store.delete(key)
