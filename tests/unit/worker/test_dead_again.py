from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.worker.dead.again import again
from shared.contracts.task import TaskMessage
from shared.ids import is_task_id, new_task_id, retried_id, task_id_seconds
from tests.support.builders import FINISH_WITHIN, NOW, START_WITHIN, TASK_ID, make_task

NEW_ID = retried_id(TASK_ID, NOW)
MOMENTS = st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001 - the strategy adds it


@given(old=st.uuids().map(str), at=MOMENTS)
def test_any_task_that_ended_at_any_time_gets_a_uuid_of_version_7_with_that_time(old: str, at: datetime) -> None:
    found = retried_id(old, at)
    assert is_task_id(found)
    milliseconds = (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)
    assert task_id_seconds(found) == milliseconds / 1000
    assert found == retried_id(old, at)


def test_the_id_is_that_of_rfc_9562_with_a_digest_in_place_of_chance() -> None:
    # 48 bits of NOW, then the first 80 bits of the digest under version 7 and variant 10:
    # printf %s 019b8e1b-7800-7abc-8def-0123456789ab | sha256sum
    assert NEW_ID == "019b8e07-4600-7740-ab58-36a7537468c9"


def test_different_tasks_that_ended_at_the_same_moment_get_different_ids() -> None:
    assert len({retried_id(new_task_id(), NOW) for _ in range(1000)}) == 1000


def test_the_id_of_a_replay_sorts_behind_the_old_one_and_another_replay_behind_that() -> None:
    first = retried_id(TASK_ID, NOW + timedelta(hours=1))
    assert TASK_ID < first < retried_id(first, NOW + timedelta(hours=2))


def test_a_replay_is_the_same_work_as_a_new_task() -> None:
    old = make_task(attempt=3, priority=8, callback="https://example.org/", cache_key="c", lane="vip")
    task = again(old, NEW_ID, NOW + timedelta(days=1))
    assert TaskMessage.model_validate(task.model_dump(by_alias=True)) == task
    assert (task.task_id, task.retry_of, task.attempt) == (NEW_ID, TASK_ID, 1)
    changed = {"task_id", "retry_of", "attempt", "submitted_at", "start_deadline", "finish_deadline"}
    assert task.model_dump(exclude=changed) == old.model_dump(exclude=changed)


def test_a_replay_has_as_much_time_as_the_old_task_had_from_now_on() -> None:
    now = NOW + timedelta(days=1)
    task = again(make_task(), NEW_ID, now)
    assert (task.submitted_at, task.start_deadline, task.finish_deadline) == (
        now,
        now + START_WITHIN,
        now + FINISH_WITHIN,
    )


@pytest.mark.parametrize(("had", "gets"), [(1, 1), (3, 3), (7, 3)])
def test_attempts_that_drains_gave_back_are_not_inherited(had: int, gets: int) -> None:
    assert again(make_task(max_attempts=had), NEW_ID, NOW).max_attempts == gets


def test_a_replay_of_a_replay_names_the_one_that_it_repeats() -> None:
    first = again(make_task(), NEW_ID, NOW)
    second = again(first, retried_id(first.task_id, NOW), NOW)
    assert second.retry_of == first.task_id
    assert len({TASK_ID, first.task_id, second.task_id}) == 3
