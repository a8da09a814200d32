"""What every keeper of submission records must do; run on the fake and on Redis."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from services.gateway.idempotency.errors import IdempotencyKeyReusedError
from services.gateway.idempotency.ports import Answered, Claim, End, Held, InFlight

if TYPE_CHECKING:
    from services.gateway.idempotency.ports import SubmissionRecords

FIRST = Claim(name="key:a", digest="d", task_id="task-1", stale_seconds=3600, kept_seconds=7200)
SECOND = replace(FIRST, task_id="task-2")
THIRD = replace(FIRST, task_id="task-3")
ANSWER = '{"task_id":"task-1","prompt":"é \\" \\\\ 🐚"}'


def impatient(claim: Claim) -> Claim:
    """For it every unanswered request is stale."""
    return replace(claim, stale_seconds=0)


class SubmissionRecordsContract:
    def test_the_first_publishes_and_the_next_is_told_so(self, records: SubmissionRecords) -> None:
        assert records.claim(FIRST) == Held("task-1")
        found = records.claim(SECOND)
        assert isinstance(found, InFlight)
        assert found.task_id == "task-1"
        assert 3590 < found.seconds_left <= 3600

    def test_an_answer_is_kept_as_it_was(self, records: SubmissionRecords) -> None:
        records.claim(FIRST)
        records.settle(FIRST, "task-1", End.ACCEPTED, ANSWER)
        assert records.claim(SECOND) == Answered("task-1", ANSWER)
        assert records.claim(impatient(THIRD)) == Answered("task-1", ANSWER)

    def test_records_of_other_names_are_others(self, records: SubmissionRecords) -> None:
        records.claim(FIRST)
        assert records.claim(replace(SECOND, name="key:b")) == Held("task-2")

    @pytest.mark.parametrize("end", [None, *End])
    def test_another_body_is_refused_while_there_is_a_record(self, records: SubmissionRecords, end: End | None) -> None:
        records.claim(FIRST)
        if end is not None:
            records.settle(FIRST, "task-1", end, ANSWER)
        other = replace(SECOND, digest="e", stale_seconds=0)
        if end is End.REFUSED:
            assert records.claim(other) == Held("task-2")
        else:
            with pytest.raises(IdempotencyKeyReusedError):
                records.claim(other)

    def test_a_certain_refusal_leaves_nothing(self, records: SubmissionRecords) -> None:
        records.claim(FIRST)
        records.settle(FIRST, "task-1", End.REFUSED)
        assert records.claim(SECOND) == Held("task-2")

    def test_an_unknown_end_is_taken_over_at_once_under_the_same_id(self, records: SubmissionRecords) -> None:
        records.claim(FIRST)
        records.settle(FIRST, "task-1", End.UNKNOWN)
        assert records.claim(SECOND) == Held("task-1", again=True)
        assert isinstance(records.claim(THIRD), InFlight)

    def test_a_stale_request_is_taken_over_by_one(self, records: SubmissionRecords) -> None:
        records.claim(FIRST)
        assert records.claim(impatient(SECOND)) == Held("task-1", again=True)
        assert isinstance(records.claim(THIRD), InFlight)

    def test_what_may_have_been_published_outlives_a_refusal_of_its_retry(self, records: SubmissionRecords) -> None:
        records.claim(FIRST)
        records.settle(FIRST, "task-1", End.UNKNOWN)
        records.claim(SECOND)
        records.settle(SECOND, "task-1", End.REFUSED)
        assert records.claim(THIRD) == Held("task-1", again=True)

    @pytest.mark.parametrize("end", [End.REFUSED, End.UNKNOWN])
    def test_who_lost_its_record_changes_it_no_more(self, records: SubmissionRecords, end: End) -> None:
        records.claim(FIRST)
        records.claim(impatient(SECOND))
        records.settle(FIRST, "task-1", end)
        assert isinstance(records.claim(THIRD), InFlight)
        records.settle(SECOND, "task-1", End.ACCEPTED, ANSWER)
        records.settle(SECOND, "task-1", end)
        assert records.claim(THIRD) == Answered("task-1", ANSWER)

    def test_a_late_answer_of_who_lost_its_record_counts(self, records: SubmissionRecords) -> None:
        records.claim(FIRST)
        records.claim(impatient(SECOND))
        records.settle(FIRST, "task-1", End.ACCEPTED, ANSWER)
        assert records.claim(THIRD) == Answered("task-1", ANSWER)

    def test_an_answer_to_a_lost_record_makes_it_anew_but_takes_no_other(self, records: SubmissionRecords) -> None:
        records.settle(FIRST, "task-1", End.ACCEPTED, ANSWER)
        assert records.claim(SECOND) == Answered("task-1", ANSWER)
        records.leave(SECOND)
        records.settle(FIRST, "task-1", End.ACCEPTED, ANSWER)
        assert records.claim(THIRD) == Held("task-2", again=True)

    def test_what_is_left_without_asking_is_published_again_under_its_id(self, records: SubmissionRecords) -> None:
        records.leave(FIRST)
        records.leave(SECOND)
        assert records.claim(THIRD) == Held("task-2", again=True)
        records.settle(SECOND, "task-2", End.REFUSED)
        assert isinstance(records.claim(FIRST), InFlight)

    def test_what_is_left_and_refused_is_gone(self, records: SubmissionRecords) -> None:
        records.leave(FIRST)
        records.settle(FIRST, "task-1", End.REFUSED)
        assert records.claim(SECOND) == Held("task-2")
