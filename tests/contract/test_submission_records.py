"""The fake records of submissions."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.gateway.idempotency.errors import RecordsUnavailableError
from services.gateway.idempotency.memory import MemoryRecords
from services.gateway.idempotency.ports import End, Held, InFlight
from tests.contract.submission_records import ANSWER, FIRST, SECOND, SubmissionRecordsContract


class TestMemoryRecords(SubmissionRecordsContract):
    @pytest.fixture
    def records(self) -> MemoryRecords:
        return MemoryRecords(lambda: 0.0)


def test_records_lapse_and_are_never_gone_before_they_are_stale() -> None:
    now = 0.0
    records = MemoryRecords(lambda: now)
    brief = replace(FIRST, kept_seconds=10, stale_seconds=20)
    records.claim(brief)
    now = 19.0
    assert records.claim(replace(brief, task_id="task-2")) == InFlight("task-1", 1.0)
    records.settle(brief, "task-1", End.ACCEPTED, ANSWER)
    now = 29.5
    assert records.claim(SECOND) == Held("task-2")


def test_a_clock_that_was_set_back_makes_nobody_wait() -> None:
    now = 1000.0
    records = MemoryRecords(lambda: now)
    records.claim(replace(FIRST, stale_seconds=5))
    now = 0.0
    assert records.claim(replace(SECOND, stale_seconds=5)) == Held("task-1", again=True)


def test_they_fail_while_they_are_switched_off() -> None:
    records = MemoryRecords(lambda: 0.0)
    records.available = False
    with pytest.raises(RecordsUnavailableError):
        records.claim(FIRST)
