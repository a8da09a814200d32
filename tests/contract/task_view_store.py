"""What every TaskViewStore must do."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from services.status.store.ports import TaskFilter
from shared.contracts.event import retrying_event, started_event
from shared.contracts.outcome import ErrorInfo
from shared.domain.task import EventType, TaskState
from shared.ids import first_task_id, new_task_id
from tests.support.builders import NOW, TASK_ID, make_event, make_task
from tests.support.views import replayed

if TYPE_CHECKING:
    from services.status.store.ports import TaskViewStore
    from shared.contracts.task import TaskMessage

LATER = NOW + timedelta(hours=1)
STATES = (EventType.QUEUED, EventType.STARTED, EventType.SUCCEEDED, EventType.FAILED)


def make_tasks(store: TaskViewStore) -> list[TaskMessage]:
    """Tasks of two tenants and two models in four states, a second apart; the newest first."""
    tasks = []
    for number in range(16):
        at = NOW + timedelta(seconds=number)
        owner = {"tenant_id": ("acme", "umbrella")[number % 2], "model": ("simulated", "newbie")[number // 2 % 2]}
        task = make_task(task_id=first_task_id(at.timestamp()), submitted_at=at, **owner)
        store.apply_events([make_event(STATES[number // 4], task)], seen_until=NOW)
        tasks.append(task)
    return tasks[::-1]


class TaskViewStoreContract:
    def test_an_unknown_task_is_none(self, store: TaskViewStore) -> None:
        assert store.get(TASK_ID) is None

    @pytest.mark.parametrize("event_type", list(EventType))
    def test_a_view_comes_back_as_it_was_made(self, store: TaskViewStore, event_type: EventType) -> None:
        event = make_event(event_type)
        store.apply_events([event], seen_until=NOW)
        assert store.get(TASK_ID) == replayed([event])

    def test_events_of_several_tasks_in_one_batch_each_reach_their_own(self, store: TaskViewStore) -> None:
        tasks = [make_task(task_id=new_task_id()) for _ in range(3)]
        events = [make_event(kind, task) for kind in (EventType.QUEUED, EventType.STARTED) for task in tasks]
        store.apply_events([*events, make_event(EventType.SUCCEEDED, tasks[1])], seen_until=NOW)
        views = [store.get(task.task_id) for task in tasks]
        states = [view.state for view in views if view is not None]
        assert states == [TaskState.RUNNING, TaskState.SUCCEEDED, TaskState.RUNNING]

    def test_batches_build_on_each_other_and_repeat_without_harm(self, store: TaskViewStore) -> None:
        events = [make_event(kind) for kind in (EventType.QUEUED, EventType.STARTED, EventType.SUCCEEDED)]
        for event in events:
            store.apply_events([event], seen_until=NOW)
        once = store.get(TASK_ID)
        store.apply_events(events, seen_until=NOW)
        assert store.get(TASK_ID) == once == replayed(events)

    @pytest.mark.parametrize("batched", [True, False])
    def test_a_replay_is_named_by_the_task_that_it_repeats(self, store: TaskViewStore, batched: bool) -> None:
        old = make_task(task_id=new_task_id())
        events = [make_event(EventType.FAILED, old), make_event(EventType.QUEUED, make_task(retry_of=old.task_id))]
        for batch in [events] if batched else [[event] for event in events]:
            store.apply_events(batch, seen_until=NOW)
        view = store.get(old.task_id)
        assert view is not None
        assert (view.retried_as, view.state) == (TASK_ID, TaskState.FAILED)

    def test_a_replay_of_an_unknown_task_is_stored_alone(self, store: TaskViewStore) -> None:
        old = new_task_id()
        store.apply_events([make_event(EventType.QUEUED, make_task(retry_of=old))], seen_until=NOW)
        assert store.get(TASK_ID) is not None
        assert store.get(old) is None

    def test_how_far_the_view_has_seen_starts_unknown_and_never_goes_back(self, store: TaskViewStore) -> None:
        assert store.seen_until() is None
        later = NOW + timedelta(microseconds=1)
        store.apply_events([], seen_until=later)
        store.apply_events([make_event()], seen_until=NOW)
        assert store.seen_until() == later

    def test_preparing_again_keeps_what_is_there(self, store: TaskViewStore) -> None:
        store.apply_events([make_event()], seen_until=NOW)
        store.prepare()
        assert store.get(TASK_ID) is not None

    def test_a_store_that_works_passes_its_check(self, store: TaskViewStore) -> None:
        store.check()

    @pytest.mark.parametrize(
        "wanted",
        [
            TaskFilter(),
            TaskFilter(tenant_id="acme"),
            TaskFilter(model="newbie"),
            TaskFilter(tenant_id="acme", model="newbie"),
            TaskFilter(states=frozenset({TaskState.FAILED, TaskState.QUEUED})),
            TaskFilter(
                tenant_id="umbrella", states=frozenset({TaskState.RUNNING, TaskState.FAILED}), model="simulated"
            ),
            TaskFilter(since=NOW + timedelta(seconds=3), until=NOW + timedelta(seconds=9)),
            TaskFilter(tenant_id="acme", since=NOW + timedelta(seconds=3), states=frozenset({TaskState.SUCCEEDED})),
            TaskFilter(states=frozenset()),
            TaskFilter(tenant_id="nobody"),
        ],
        # By number: the order within a set is another one in each process.
        ids=range(10),
    )
    @pytest.mark.exhaustive
    def test_a_list_is_what_was_asked_for_newest_first_and_goes_on_where_it_ended(
        self, store: TaskViewStore, wanted: TaskFilter
    ) -> None:
        state_of = {kind: replayed([make_event(kind)]).state for kind in STATES}
        expected = [
            task.task_id
            for number, task in zip(range(15, -1, -1), make_tasks(store), strict=True)
            if wanted.tenant_id in (None, task.tenant_id)
            and wanted.model in (None, task.model)
            and (wanted.states is None or state_of[STATES[number // 4]] in wanted.states)
            and (wanted.since is None or task.submitted_at >= wanted.since)
            and (wanted.until is None or task.submitted_at < wanted.until)
        ]
        assert [view.task_id for view in store.listed(wanted, None, 100)] == expected
        found: list[str] = []
        while views := store.listed(wanted, found[-1] if found else None, 3):
            found += [view.task_id for view in views]
        assert found == expected

    def test_attempts_come_in_their_order_with_what_became_of_them(self, store: TaskViewStore) -> None:
        first, second = (make_task(attempt=number) for number in (1, 2))
        events = [
            started_event(first, worker="a", execution="1", at=NOW),
            retrying_event(second, ErrorInfo(code="worker_lost", message="m"), delay_seconds=0, at=LATER),
            started_event(second, worker="b", execution="2", at=LATER),
            make_event(EventType.FAILED, second),
        ]
        for event in reversed(events):
            store.apply_events([event], seen_until=NOW)
        lost, last = store.attempts(TASK_ID)
        assert (lost.attempt, lost.worker, lost.execution, lost.started_at) == (1, "a", "1", NOW)
        assert (lost.state, lost.ended_at, lost.error_code) == (TaskState.RETRYING, LATER, "worker_lost")
        assert (last.attempt, last.state, last.error_code) == (2, TaskState.FAILED, "backend_error")
        assert store.attempts(new_task_id()) == []

    def test_a_task_that_only_waited_had_no_attempt(self, store: TaskViewStore) -> None:
        store.apply_events([make_event(EventType.QUEUED)], seen_until=NOW)
        assert store.attempts(TASK_ID) == []

    @pytest.mark.parametrize("seed", range(5))
    def test_events_in_any_order_and_batches_come_to_the_same(self, store: TaskViewStore, seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311 - not a secret
        first, second = (make_task(attempt=number) for number in (1, 2))
        life = [make_event(kind, first) for kind in (EventType.QUEUED, EventType.STARTED, EventType.PROGRESS)]
        life += [make_event(EventType.RETRYING, first), make_event(EventType.STARTED, second)]
        life += [make_event(EventType.SUCCEEDED, second)] if seed % 2 else []
        arrived = chance.sample(life, len(life)) + chance.choices(life, k=3)
        chance.shuffle(arrived)
        for batch in (arrived[:2], arrived[2:]):
            store.apply_events(batch, seen_until=NOW)
        assert store.get(TASK_ID) == replayed(life)
        attempts = [(attempt.attempt, attempt.worker) for attempt in store.attempts(TASK_ID)]
        assert attempts == [(1, "worker-1"), (2, "worker-1")]
