"""What every WorkStore must do beside the TaskViewStore over the same database."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

import pytest

from services.status.work import WorkState
from shared.contracts.base import decode
from shared.contracts.event import retrying_event, started_event
from shared.contracts.outcome import ErrorInfo
from shared.contracts.task import TaskMessage
from shared.domain.task import EventType
from shared.ids import new_task_id
from tests.support.builders import FINISH_WITHIN, MODEL, NOW, START_WITHIN, make_event, make_task

if TYPE_CHECKING:
    from datetime import datetime

    from services.status.store.ports import TaskViewStore, WorkStore
    from shared.contracts.event import TaskEvent

SOON = NOW + timedelta(seconds=5)
LATE = NOW + START_WITHIN


class Stores(NamedTuple):
    views: TaskViewStore
    work: WorkStore

    def apply(self, *events: TaskEvent) -> None:
        self.views.apply_events(events, seen_until=NOW)

    def queue(self, tenant: str = "acme", **changes: object) -> TaskMessage:
        task = make_task(**{"task_id": new_task_id(), "tenant_id": tenant, **changes})
        self.apply(make_event(EventType.QUEUED, task))
        return task

    def retry(self, task: TaskMessage, seconds: float) -> None:
        following = task.model_copy(update={"attempt": task.attempt + 1, "priority": 2})
        error = ErrorInfo(code="backend_error", message="the model raised")
        self.apply(retrying_event(following, error, delay_seconds=seconds, at=SOON))

    def overdue(self, now: datetime = LATE, limit: int = 10, after: str = "") -> list[str]:
        return [work.task_id for work in self.work.overdue(now, limit, after=after)]

    def heads(self, seconds: float, now: datetime = SOON) -> list[str]:
        return [work.task_id for work in self.work.heads(MODEL, now, seconds)]


class WorkStoreContract:
    def test_a_waiting_task_is_overdue_from_its_start_deadline_on(self, stores: Stores) -> None:
        task = stores.queue()
        assert stores.overdue(LATE - timedelta(microseconds=1)) == []
        assert stores.overdue(LATE) == [task.task_id]

    @pytest.mark.parametrize(
        "event_type", [kind for kind in EventType if kind not in {EventType.QUEUED, EventType.PROGRESS}]
    )
    def test_a_task_that_has_started_or_ended_does_not_wait_for_its_start(
        self, stores: Stores, event_type: EventType
    ) -> None:
        task = stores.queue()
        stores.apply(make_event(event_type, task))
        assert stores.overdue() == []

    def test_an_event_that_comes_late_or_twice_changes_nothing(self, stores: Stores) -> None:
        task = make_task(task_id=new_task_id())
        stores.apply(make_event(EventType.STARTED, task), make_event(EventType.QUEUED, task))
        [change] = stores.work.changes(0, 10)
        stores.apply(make_event(EventType.STARTED, task), make_event(EventType.QUEUED, task))
        assert stores.work.changes(0, 10) == [change]
        assert change.work.state is WorkState.RUNNING

    def test_a_waiting_task_stands_behind_higher_levels_and_what_came_before_on_its_own(self, stores: Stores) -> None:
        running = stores.queue("umbrella", priority=1)
        stores.apply(make_event(EventType.STARTED, running))
        behind = [stores.queue(priority=2), stores.queue(priority=5, model="another")]
        ahead = [stores.queue(priority=5), stores.queue("umbrella", priority=9)]
        own = stores.queue(priority=5)
        standing = stores.views.standing(own.task_id, SOON)
        assert standing is not None
        seconds = own.predicted.gpu_seconds
        assert (standing.ahead, standing.ahead_seconds, standing.own_seconds) == (2, 2 * seconds, seconds)
        assert (standing.workers, standing.running_seconds) == (1, seconds)
        assert standing.eta_seconds == pytest.approx(3.5 * seconds)
        assert stores.views.standing(ahead[1].task_id, SOON) != standing
        last = stores.views.standing(behind[0].task_id, SOON)
        assert last is not None
        assert last.ahead == 3

    def test_only_what_waits_stands_anywhere_and_nobody_knows_when_without_a_worker(self, stores: Stores) -> None:
        task = stores.queue()
        standing = stores.views.standing(task.task_id, SOON)
        assert standing is not None
        assert (standing.ahead, standing.eta_seconds) == (0, None)
        stores.apply(make_event(EventType.STARTED, task))
        assert stores.views.standing(task.task_id, SOON) is None
        assert stores.views.standing(new_task_id(), SOON) is None

    def test_a_retry_has_until_its_finish_deadline_and_the_message_of_its_attempt(self, stores: Stores) -> None:
        task = stores.queue()
        stores.retry(task, 30)
        assert stores.overdue(LATE) == []
        [work] = stores.work.overdue(NOW + FINISH_WITHIN, 1)
        assert decode(TaskMessage, work.document.encode()).attempt == work.attempt == 2
        assert work.level == 2

    def test_overdue_tasks_come_in_pieces(self, stores: Stores) -> None:
        tasks = sorted(stores.queue().task_id for _ in range(3))
        first = stores.overdue(limit=2)
        assert first == tasks[:2]
        assert stores.overdue(limit=2, after=first[-1]) == tasks[2:]

    def test_heads_are_each_tenants_oldest_up_to_so_much_work(self, stores: Stores) -> None:
        later = [stores.queue("b", submitted_at=NOW + timedelta(seconds=n)) for n in (2, 1)]
        first = [stores.queue("a", predicted={"gpu_seconds": 4.0, "vram_mb": 1}) for _ in range(2)]
        stores.queue("c", model="tiny-newbie")
        oldest = min(task.task_id for task in first)
        assert stores.heads(0.5) == [oldest, later[1].task_id]
        assert stores.heads(4.0) == [oldest, later[1].task_id, later[0].task_id]
        assert len(stores.heads(4.1)) == 4

    def test_heads_are_in_their_queue_and_in_time(self, stores: Stores) -> None:
        task = stores.queue()
        stores.retry(task, 30)
        ready = SOON + timedelta(seconds=30)
        assert stores.heads(1.0, ready - timedelta(microseconds=1)) == []
        assert stores.heads(1.0, ready) == [task.task_id]
        assert stores.heads(1.0, NOW + FINISH_WITHIN) == []

    def test_a_queue_tells_what_is_usual_there_and_who_works(self, stores: Stores) -> None:
        for seconds in (1.0, 3.0):
            stores.queue(predicted={"gpu_seconds": seconds, "vram_mb": 1})
        for worker in ("w1", "w2", "w2"):
            running = stores.queue(predicted={"gpu_seconds": 9.0, "vram_mb": 1})
            stores.apply(started_event(running, worker=worker, execution="e", at=SOON))
        [queue] = stores.work.queues(SOON)
        assert (queue.model, queue.usual_seconds, queue.workers) == (MODEL, 2.0, 2)
        [queue] = stores.work.queues(NOW + FINISH_WITHIN)
        assert queue.workers == 0

    def test_a_raised_level_is_seen_by_sweeper_and_tenant_and_never_goes_down(self, stores: Stores) -> None:
        task = stores.queue(priority=1)
        for level in (8, 4):
            stores.work.raise_level(task.task_id, 1, level, SOON)
        view = stores.views.get(task.task_id)
        assert view is not None
        assert view.priority == 8
        [work] = stores.work.heads(MODEL, SOON, 1.0)
        assert work.level == 8

    def test_a_level_of_an_earlier_attempt_is_not_that_of_the_next(self, stores: Stores) -> None:
        task = stores.queue(priority=1)
        stores.retry(task, 0)
        stores.work.raise_level(task.task_id, 1, 8, SOON)
        [work] = stores.work.heads(MODEL, SOON, 1.0)
        assert work.level == 2

    def test_changes_come_once_in_order_and_what_was_spent_with_the_end(self, stores: Stores) -> None:
        tasks = [stores.queue() for _ in range(2)]
        before = stores.work.latest_change()
        stores.apply(make_event(EventType.STARTED, tasks[1]), make_event(EventType.SUCCEEDED, tasks[0]))
        changes = stores.work.changes(before, 10)
        assert [(change.work.task_id, change.work.state) for change in changes] == [
            (tasks[1].task_id, WorkState.RUNNING),
            (tasks[0].task_id, WorkState.ENDED),
        ]
        assert (changes[0].work.worker, changes[1].work.spent_seconds) == ("worker-1", 2.0)
        assert stores.work.changes(before, 1) == changes[:1]
        assert stores.work.latest_change() == changes[-1].position

    def test_what_is_forgotten_comes_not_again_and_positions_go_on(self, stores: Stores) -> None:
        waiting, ended = stores.queue(), stores.queue()
        stores.apply(make_event(EventType.SUCCEEDED, ended))
        seen = stores.work.latest_change()
        stores.work.forget_ended(seen)
        stores.apply(make_event(EventType.SUCCEEDED, ended))
        assert [change.work.task_id for change in stores.work.changes(0, 10)] == [waiting.task_id]
        stores.queue()
        assert stores.work.latest_change() > seen

    def test_an_end_that_was_not_seen_is_not_forgotten(self, stores: Stores) -> None:
        ended = stores.queue()
        seen = stores.work.latest_change()
        stores.apply(make_event(EventType.SUCCEEDED, ended))
        stores.work.forget_ended(seen)
        assert len(stores.work.changes(seen, 10)) == 1

    def test_a_lease_has_one_holder_until_it_is_over_or_given_back(self, stores: Stores) -> None:
        work = stores.work
        assert work.take_lease("sweeper", "a", NOW, 10)
        assert not work.take_lease("sweeper", "b", NOW, 10)
        assert work.take_lease("sweeper", "a", SOON, 10)
        assert not work.take_lease("sweeper", "b", NOW + timedelta(seconds=11), 10)
        assert work.take_lease("sweeper", "b", NOW + timedelta(seconds=15), 10)
        work.give_lease_back("sweeper", "a")
        assert not work.take_lease("sweeper", "a", NOW + timedelta(seconds=16), 10)
        work.give_lease_back("sweeper", "b")
        assert work.take_lease("sweeper", "a", NOW + timedelta(seconds=16), 10)

    def test_a_task_is_found_with_the_message_of_its_latest_attempt(self, stores: Stores) -> None:
        task, other = stores.queue(), stores.queue()
        assert stores.work.find(new_task_id()) is None
        stores.retry(task, 0)
        found = stores.work.find(task.task_id)
        assert found is not None
        assert decode(TaskMessage, found.document.encode()).attempt == 2
        untouched = stores.work.find(other.task_id)
        assert untouched is not None
        assert decode(TaskMessage, untouched.document.encode()) == other

    def test_an_ended_task_is_found_without_a_message_until_it_is_forgotten(self, stores: Stores) -> None:
        task = stores.queue()
        stores.apply(make_event(EventType.CANCELLED, task))
        found = stores.work.find(task.task_id)
        assert found is not None
        assert (found.state, found.document) == (WorkState.ENDED, "")
        stores.work.forget_ended(stores.work.latest_change())
        assert stores.work.find(task.task_id) is None
