"""What the index of work must do over every object store."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

import pytest

from shared.domain.keeping import REUSED_FOR
from shared.domain.task import TaskState
from shared.ids import first_task_id, new_task_id
from shared.storage.records import TaskRecords
from shared.storage.work_index import WorkIndex
from tests.support.builders import NOW, make_artifact, make_outcome, make_task

if TYPE_CHECKING:
    from shared.contracts.outcome import Artifact, Outcome
    from shared.storage.ports import ObjectStore

KEY: Final = f"tenant/acme/{'a' * 64}"
RACERS: Final = 8


def make(store: ObjectStore, task_id: str) -> Artifact:
    """A picture of a task, stored."""
    artifact = make_artifact(key=f"tasks/{task_id}/1-x/0.png")
    store.put(artifact.key, b"x", media_type="image/png")
    return artifact


def end(store: ObjectStore, task_id: str, state: TaskState = TaskState.SUCCEEDED) -> Outcome:
    """End a task, with a picture when it succeeds."""
    artifacts = (make(store, task_id),) if state is TaskState.SUCCEEDED else ()
    outcome = make_outcome(task=make_task(task_id=task_id), state=state, artifacts=artifacts)
    return TaskRecords(store).commit(outcome)


class WorkIndexContract:
    """Inherit and provide the ``store`` fixture."""

    @pytest.fixture
    def index(self, store: ObjectStore) -> WorkIndex:
        return WorkIndex(TaskRecords(store))

    def test_the_first_leads_and_keeps_the_lead_when_it_asks_again(self, index: WorkIndex) -> None:
        first = new_task_id()
        assert index.lead(KEY, first, NOW) is None
        assert index.lead(KEY, first, NOW + timedelta(minutes=1)) is None
        assert index.find(KEY) is None

    def test_while_the_leader_works_others_are_told_who_it_is(self, index: WorkIndex) -> None:
        first = new_task_id()
        index.lead(KEY, first, NOW)
        twin = index.lead(KEY, new_task_id(), NOW)
        assert twin is not None
        assert (twin.task_id, twin.outcome) == (first, None)

    def test_what_the_leader_made_is_found(self, index: WorkIndex, store: ObjectStore) -> None:
        first = new_task_id()
        index.lead(KEY, first, NOW)
        made = end(store, first)
        twin = index.lead(KEY, new_task_id(), NOW)
        assert twin is not None
        assert twin.outcome == index.find(KEY) == made

    @pytest.mark.parametrize("state", [TaskState.FAILED, TaskState.CANCELLED, TaskState.EXPIRED])
    def test_of_a_leader_without_a_result_the_next_takes_the_lead(
        self, index: WorkIndex, store: ObjectStore, state: TaskState
    ) -> None:
        first, second, third = (new_task_id() for _ in range(3))
        index.lead(KEY, first, NOW)
        end(store, first, state)
        assert index.find(KEY) is None
        assert index.lead(KEY, second, NOW) is None
        twin = index.lead(KEY, third, NOW)
        assert twin is not None
        assert twin.task_id == second

    def test_a_result_that_is_no_longer_kept_is_none(self, index: WorkIndex, store: ObjectStore) -> None:
        first, second = new_task_id(), new_task_id()
        index.lead(KEY, first, NOW)
        made = end(store, first)
        store.delete_prefix(made.artifacts[0].key)
        assert index.find(KEY) is None
        assert index.lead(KEY, second, NOW) is None
        assert end(store, second) == index.find(KEY)

    def test_a_result_that_is_too_old_to_be_given_is_none_and_the_next_takes_the_lead(self, store: ObjectStore) -> None:
        now = datetime.now(UTC)
        index = WorkIndex(TaskRecords(store), clock=lambda: now)
        old = first_task_id((now - REUSED_FOR - timedelta(seconds=1)).timestamp())
        young = first_task_id((now - REUSED_FOR + timedelta(seconds=1)).timestamp())
        index.lead(KEY, old, now)
        end(store, old)
        assert index.find(KEY) is None
        assert index.lead(KEY, young, now) is None
        made = end(store, young)
        assert index.find(KEY) == made
        follower = new_task_id()
        index.lead(f"{KEY}f", follower, now)
        TaskRecords(store).commit(
            make_outcome(task=make_task(task_id=follower), artifacts=(make_artifact(key=f"tasks/{old}/1-x/0.png"),))
        )
        assert index.find(f"{KEY}f") is None, "who made it decides, not who has it"

    def test_keys_do_not_mix(self, index: WorkIndex, store: ObjectStore) -> None:
        first = new_task_id()
        index.lead(KEY, first, NOW)
        end(store, first)
        for other in (f"tenant/acme/{'b' * 64}", f"tenant/acm/{'a' * 64}", KEY[:-1]):
            assert index.find(other) is None

    def test_of_a_crowd_one_leads_and_after_its_failure_one_again(self, index: WorkIndex, store: ObjectStore) -> None:
        leader = new_task_id()
        index.lead(KEY, leader, NOW)
        for _ in range(3):
            end(store, leader, TaskState.FAILED)
            barrier = threading.Barrier(RACERS)

            def race(task_id: str, barrier: threading.Barrier = barrier) -> bool:
                barrier.wait()
                return index.lead(KEY, task_id, NOW) is None

            racers = [new_task_id() for _ in range(RACERS)]
            with ThreadPoolExecutor(RACERS) as pool:
                leads = list(pool.map(race, racers))
            assert sum(leads) == 1
            leader = racers[leads.index(True)]
