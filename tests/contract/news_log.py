"""What every NewsLog must do beside the TaskViewStore over the same database."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from shared.contracts.event import Preview, Progress, progress_event
from shared.domain.task import EventType, Phase, TaskState
from shared.ids import new_task_id
from tests.support.builders import NOW, TASK_ID, make_event, make_task

if TYPE_CHECKING:
    from services.status.store.ports import NewsLog, TaskViewStore
    from shared.contracts.event import TaskEvent


class Told(NamedTuple):
    views: TaskViewStore
    news: NewsLog

    def apply(self, *events: TaskEvent) -> None:
        self.views.apply_events(events, seen_until=NOW)


class NewsLogContract:
    def test_an_empty_log_begins_with_the_first_position(self, told: Told) -> None:
        assert (told.news.latest(), told.news.oldest(), told.news.after(0, 10)) == (0, 1, [])

    def test_news_come_in_order_at_ascending_positions(self, told: Told) -> None:
        kinds = (EventType.QUEUED, EventType.STARTED, EventType.PROGRESS, EventType.SUCCEEDED)
        told.apply(*(make_event(kind) for kind in kinds[:2]))
        told.apply(*(make_event(kind) for kind in kinds[2:]))
        logged = told.news.after(0, 10)
        assert [one.news.type for one in logged] == list(kinds)
        assert [one.position for one in logged] == [1, 2, 3, 4]
        assert (told.news.oldest(), told.news.latest()) == (1, 4)
        assert told.news.after(2, 1) == logged[2:3]
        assert told.news.after(4, 10) == []

    def test_what_is_repeated_or_late_is_no_news(self, told: Told) -> None:
        told.apply(make_event(EventType.SUCCEEDED), make_event(EventType.STARTED))
        told.apply(make_event(EventType.SUCCEEDED), make_event(EventType.QUEUED))
        assert [one.news.state for one in told.news.after(0, 10)] == [TaskState.SUCCEEDED]

    def test_news_of_one_task_or_one_tenant_can_be_read_alone(self, told: Told) -> None:
        other = make_task(task_id=new_task_id(), tenant_id="umbrella")
        told.apply(make_event(), make_event(task=other), make_event(EventType.STARTED))
        assert [one.position for one in told.news.after(0, 10, task_id=TASK_ID)] == [1, 3]
        assert [one.position for one in told.news.after(1, 10, tenant_id="acme")] == [3]
        assert [one.news.task_id for one in told.news.after(0, 10, tenant_id="umbrella")] == [other.task_id]
        assert told.news.after(0, 10, tenant_id="umbrella", task_id=TASK_ID) == []

    def test_news_come_back_whole(self, told: Told) -> None:
        preview = Preview(media_type="image/webp", data="AAAA", width=8, height=8)
        progress = Progress(phase=Phase.DENOISING, step=1, steps=4, preview=preview)
        told.apply(make_event(EventType.STARTED))
        told.apply(progress_event(make_task(), progress, sequence=2, at=NOW))
        told.apply(make_event(EventType.FAILED))
        _, shown, failed = (one.news for one in told.news.after(0, 10))
        assert (shown.progress, shown.at, shown.model) == (progress, NOW, "simulated")
        assert failed.error is not None
        assert (failed.error.code, failed.tenant_id) == ("backend_error", "acme")

    def test_the_epoch_stays(self, told: Told) -> None:
        epoch = told.news.epoch()
        told.apply(make_event())
        told.views.prepare()
        assert told.news.epoch() == epoch
