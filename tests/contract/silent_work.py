"""What the sweeper asks the status database about tasks that nothing was heard of. A contract of the stores."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from services.status.work import Front
from shared.domain.task import EventType
from shared.ids import new_task_id
from tests.support.builders import FINISH_WITHIN, MODEL, NOW, make_event, make_task

if TYPE_CHECKING:
    from datetime import datetime

    from services.status.store.ports import TaskViewStore, WorkStore
    from shared.contracts.task import TaskMessage

SILENCE: Final = timedelta(seconds=60)


class Stores(NamedTuple):
    views: TaskViewStore
    work: WorkStore

    def add(self, *kinds: EventType, **changes: object) -> TaskMessage:
        task = make_task(**{"task_id": new_task_id(), **changes})
        self.views.apply_events([make_event(kind, task) for kind in (EventType.QUEUED, *kinds)], seen_until=NOW)
        return task

    def silent(self, now: datetime, limit: int = 9, after: str = "") -> list[str]:
        return [work.task_id for work in self.work.silent(now, SILENCE, limit, after=after)]


class SilentWorkContract:
    """Needs a fixture of its own kind of stores."""

    def test_a_task_that_waits_is_silent_when_it_has_been_ready_for_so_long(self, stores: Stores) -> None:
        task = stores.add()
        assert stores.silent(NOW + SILENCE - timedelta(seconds=1)) == []
        assert stores.silent(NOW + SILENCE) == [task.task_id]

    def test_a_retry_is_ready_after_its_delay(self, stores: Stores) -> None:
        task = stores.add(EventType.RETRYING)  # told a second after the submit, with a delay of 5 s
        ready = NOW + timedelta(seconds=6)
        assert stores.silent(ready + SILENCE - timedelta(seconds=1)) == []
        assert stores.silent(ready + SILENCE) == [task.task_id]

    def test_a_task_that_runs_is_silent_when_there_was_no_event_for_so_long(self, stores: Stores) -> None:
        started = stores.add(EventType.STARTED)
        last = NOW + timedelta(seconds=1)
        assert stores.silent(last + SILENCE - timedelta(seconds=1)) == []
        assert stores.silent(last + SILENCE) == [started.task_id]

    def test_a_task_that_runs_past_its_finish_deadline_is_looked_at_however_much_is_heard(self, stores: Stores) -> None:
        task = stores.add(EventType.STARTED, finish_deadline=NOW + timedelta(seconds=2))
        assert stores.silent(NOW + timedelta(seconds=1)) == []
        assert stores.silent(NOW + timedelta(seconds=2)) == [task.task_id]

    def test_what_has_ended_is_not_silent(self, stores: Stores) -> None:
        stores.add(EventType.STARTED, EventType.SUCCEEDED)
        assert stores.silent(NOW + FINISH_WITHIN) == []

    def test_they_come_piece_by_piece(self, stores: Stores) -> None:
        ids = [stores.add().task_id for _ in range(3)]
        late = NOW + SILENCE
        assert stores.silent(late, 2) == ids[:2]
        assert stores.silent(late, 2, ids[1]) == ids[2:]

    def test_fronts_are_the_newest_that_were_started_at_each_level(self, stores: Stores) -> None:
        for second, level in ((1, 5), (3, 5), (2, 7)):
            stores.add(EventType.STARTED, submitted_at=NOW + timedelta(seconds=second), priority=level)
        stores.add(EventType.STARTED, EventType.FAILED, submitted_at=NOW + timedelta(seconds=4), priority=3)
        stores.add(submitted_at=NOW + timedelta(seconds=9), priority=5)  # waits
        stores.add(EventType.EXPIRED, submitted_at=NOW + timedelta(seconds=9), priority=5)  # nobody took it
        expected = {Front(MODEL, level, NOW + timedelta(seconds=second)) for level, second in ((5, 3), (7, 2), (3, 4))}
        assert set(stores.work.fronts()) == expected

    def test_the_sweeper_sees_up_to_where_events_were_applied(self, stores: Stores) -> None:
        assert stores.work.seen_until() is None
        stores.add()
        assert stores.work.seen_until() == NOW
