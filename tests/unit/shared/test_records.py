from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from shared.domain.errors import DecodeError, StorageError
from shared.domain.task import TaskState
from shared.storage.memory import MemoryStore
from shared.storage.records import JSON, TaskRecords, artifact_prefix, claim_key, outcome_key, task_prefix
from tests.support.builders import TASK_ID, make_claim, make_outcome


@pytest.fixture
def records() -> TaskRecords:
    return TaskRecords(MemoryStore())


def test_a_task_without_records_has_none(records: TaskRecords) -> None:
    assert records.outcome(TASK_ID) is None
    assert records.find_claim(TASK_ID, 1) is None


def test_the_first_outcome_stands_and_every_later_one_learns_of_it(records: TaskRecords) -> None:
    winner = make_outcome(execution="first")
    assert records.commit(winner) == winner
    assert records.commit(make_outcome(execution="second", state=TaskState.CANCELLED)) == winner
    assert records.outcome(TASK_ID) == winner


def test_a_repeated_commit_of_the_same_execution_is_recognised(records: TaskRecords) -> None:
    outcome = make_outcome()
    records.commit(outcome)
    assert records.commit(outcome).execution == outcome.execution


def test_of_racing_ends_all_see_the_same_winner(records: TaskRecords) -> None:
    ends = [make_outcome(execution=f"{n}", state=state) for n, state in enumerate(s for s in TaskState if s.is_final)]
    with ThreadPoolExecutor(len(ends)) as pool:
        seen = list(pool.map(records.commit, ends))
    assert len({outcome.execution for outcome in seen}) == 1
    assert records.outcome(TASK_ID) == seen[0]


def test_an_attempt_is_claimed_once_and_each_attempt_by_itself(records: TaskRecords) -> None:
    first, second = make_claim(execution="a"), make_claim(attempt=2, execution="c")
    assert records.claim(first) == first
    assert records.claim(make_claim(execution="b")) == first
    assert records.claim(second) == second
    assert records.find_claim(TASK_ID, 1) == first


def test_a_record_that_cannot_be_read_is_an_error_and_not_absence(records: TaskRecords) -> None:
    records.store.put(outcome_key(TASK_ID), b"{broken", media_type=JSON)
    with pytest.raises(DecodeError):
        records.outcome(TASK_ID)
    with pytest.raises(DecodeError):
        records.commit(make_outcome())


def test_a_store_that_is_away_is_an_error_and_not_absence() -> None:
    store = MemoryStore()
    store.available = False
    with pytest.raises(StorageError):
        TaskRecords(store).outcome(TASK_ID)
    with pytest.raises(StorageError):
        TaskRecords(store).find_claim(TASK_ID, 1)


def test_places_in_the_bucket_are_those_that_are_promised() -> None:
    assert claim_key("t", 2) == "tasks/t/claim-2.json"
    assert outcome_key("t") == "tasks/t/outcome.json"
    assert artifact_prefix("t", 1, "e") == "tasks/t/1-e/"
    assert all(key.startswith(task_prefix("t")) for key in (claim_key("t", 1), outcome_key("t")))
