"""Ends that are told again long after they happened. A contract of the stores."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from shared.domain.task import EventType
from shared.ids import new_task_id
from tests.support.builders import NOW, make_event, make_task

if TYPE_CHECKING:
    from services.status.store.ports import NewsLog, TaskViewStore, WorkStore


class Stores(NamedTuple):
    views: TaskViewStore
    news: NewsLog
    work: WorkStore


class RestoredViewsContract:
    """Needs a fixture of its own kind of stores."""

    def test_what_happened_before_is_applied_in_silence(self, stores: Stores) -> None:
        old, new = make_task(task_id=new_task_id()), make_task(submitted_at=NOW + timedelta(hours=2))
        ends = [make_event(EventType.SUCCEEDED, task) for task in (old, new)]
        stores.views.apply_events(ends, seen_until=None, tell_since=NOW + timedelta(hours=1))
        assert [logged.news.task_id for logged in stores.news.after(0, 9)] == [new.task_id]
        assert all(stores.views.get(task.task_id) for task in (old, new))

    def test_it_says_nothing_of_what_else_was_seen_and_takes_nothing_back(self, stores: Stores) -> None:
        stores.views.apply_events([make_event(EventType.SUCCEEDED)], seen_until=None)
        assert stores.views.seen_until() is None
        stores.views.apply_events([], seen_until=NOW)
        stores.views.apply_events([], seen_until=None)
        assert stores.views.seen_until() == NOW

    def test_what_had_ended_before_it_was_known_is_no_work(self, stores: Stores) -> None:
        stores.views.apply_events([make_event(EventType.SUCCEEDED)], seen_until=None)
        assert stores.work.changes(0, 9) == []
        task = make_task(task_id=new_task_id())
        stores.views.apply_events(
            [make_event(EventType.QUEUED, task), make_event(EventType.FAILED, task)], seen_until=NOW
        )
        assert [change.work.task_id for change in stores.work.changes(0, 9)] == [task.task_id]
