"""What every RetentionStore must do beside the other stores of the same database."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from services.status.view import TaskView
from shared.domain.task import EventType
from shared.ids import first_task_id
from tests.support.builders import NOW, make_event, make_task

if TYPE_CHECKING:
    from datetime import datetime

    from services.status.store.ports import NewsLog, RetentionStore, TaskViewStore
    from shared.contracts.task import TaskMessage

SECOND = timedelta(seconds=1)


class Kept(NamedTuple):
    views: TaskViewStore
    news: NewsLog
    retention: RetentionStore

    def task(self, at: datetime, *kinds: EventType) -> TaskMessage:
        task = make_task(task_id=first_task_id(at.timestamp()), submitted_at=at)
        self.views.apply_events([make_event(kind, task) for kind in kinds], seen_until=NOW)
        return task


class RetentionStoreContract:
    def test_old_news_go_and_positions_go_on(self, kept: Kept) -> None:
        kept.task(NOW, EventType.QUEUED, EventType.STARTED)
        kept.task(NOW + 10 * SECOND, EventType.QUEUED)
        assert kept.retention.drop_news(NOW + SECOND / 2, 10) == 1
        assert (kept.news.oldest(), kept.news.latest()) == (2, 3)
        assert kept.retention.drop_news(NOW + 60 * SECOND, 10) == 2
        assert (kept.news.oldest(), kept.news.latest(), kept.news.after(0, 10)) == (4, 3, [])
        kept.task(NOW + 20 * SECOND, EventType.QUEUED)
        assert [one.position for one in kept.news.after(0, 10)] == [4]

    def test_news_go_in_pieces_and_recent_ones_before_old_ones_stay(self, kept: Kept) -> None:
        kept.task(NOW + 60 * SECOND, EventType.QUEUED)
        for number in range(4):
            kept.task(NOW + number * SECOND, EventType.QUEUED)
        assert kept.retention.drop_news(NOW + 30 * SECOND, 3) == 2
        assert kept.retention.drop_news(NOW + 30 * SECOND, 3) == 2
        assert kept.retention.drop_news(NOW + 30 * SECOND, 3) == 0
        assert [one.position for one in kept.news.after(0, 10)] == [1]

    def test_tasks_that_ended_before_a_time_come_by_id_with_their_attempts(self, kept: Kept) -> None:
        late = NOW + 3600 * SECOND
        tasks = [kept.task(NOW + number * SECOND, EventType.STARTED, EventType.FAILED) for number in range(3)]
        kept.task(NOW + 3 * SECOND, EventType.QUEUED, EventType.STARTED)
        kept.task(late, EventType.SUCCEEDED)
        found = kept.retention.ended_tasks(late, 2)
        assert [task.task_id for task in found] == [task.task_id for task in tasks[:2]]
        assert [TaskView.model_validate_json(task.view) for task in found] == [
            kept.views.get(task.task_id) for task in tasks[:2]
        ]
        assert found[0].attempts == tuple(kept.views.attempts(tasks[0].task_id))
        assert len(kept.retention.ended_tasks(late, 10)) == 3
        assert kept.retention.ended_tasks(NOW + 3 * SECOND, 10) == []

    def test_dropped_tasks_are_gone_with_their_attempts_and_others_stay(self, kept: Kept) -> None:
        gone = kept.task(NOW, EventType.STARTED, EventType.SUCCEEDED)
        stays = kept.task(NOW + SECOND, EventType.STARTED, EventType.SUCCEEDED)
        [first, _] = kept.retention.ended_tasks(NOW + 60 * SECOND, 10)
        assert kept.retention.drop_tasks([first]) == 1
        assert (kept.views.get(gone.task_id), kept.views.attempts(gone.task_id)) == (None, [])
        assert kept.views.get(stays.task_id) is not None
        assert len(kept.views.attempts(stays.task_id)) == 1
        assert kept.retention.drop_tasks([]) == 0

    def test_a_task_that_has_changed_since_it_was_read_stays(self, kept: Kept) -> None:
        old = kept.task(NOW, EventType.FAILED)
        found = kept.retention.ended_tasks(NOW + 60 * SECOND, 10)
        again = make_task(task_id=first_task_id((NOW + SECOND).timestamp()), retry_of=old.task_id)
        kept.views.apply_events([make_event(EventType.QUEUED, again)], seen_until=NOW)
        assert kept.retention.drop_tasks(found) == 0
        view = kept.views.get(old.task_id)
        assert view is not None
        assert (view.retried_as, len(kept.views.attempts(old.task_id))) == (again.task_id, 1)
