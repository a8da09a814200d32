from __future__ import annotations

import time
from uuid import UUID

import pytest

from shared import ids


def test_task_ids_are_version_7_uuids_in_canonical_form() -> None:
    task_id = ids.new_task_id()
    assert ids.is_task_id(task_id)
    assert UUID(task_id).version == 7
    assert str(UUID(task_id)) == task_id


def test_task_ids_differ_and_are_ordered_by_time() -> None:
    made = [ids.new_task_id() for _ in range(1000)]
    assert len(set(made)) == 1000
    assert made == sorted(made)


def test_a_task_id_tells_when_it_was_made() -> None:
    before = time.time()
    seconds = ids.task_id_seconds(ids.new_task_id())
    # Task ids count whole milliseconds.
    assert before - 0.001 <= seconds <= time.time()
    assert ids.task_id_seconds("019b8e1b-7800-7abc-8def-0123456789ab") == 0x019B8E1B7800 / 1000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "019B8E1B-7800-7ABC-8DEF-0123456789AB",
        "019b8e1b-7800-4abc-8def-0123456789ab",
        "019b8e1b-7800-7abc-0def-0123456789ab",
        "019b8e1b78007abc8def0123456789ab",
        "019b8e1b-7800-7abc-8def-0123456789ab\n",
        "../../outcome.json",
    ],
)
def test_anything_else_is_no_task_id(text: str) -> None:
    assert not ids.is_task_id(text)


def test_a_traceparent_is_well_formed_and_holds_its_trace_id() -> None:
    traceparent = ids.new_traceparent()
    assert ids.TRACEPARENT.match(traceparent)
    assert traceparent.split("-")[1] == ids.trace_id_of(traceparent)


@pytest.mark.parametrize(
    "text",
    [
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
    ],
)
def test_traceparents_that_the_standard_forbids_are_not_matched(text: str) -> None:
    assert ids.TRACEPARENT.match(text) is None


def test_request_and_execution_ids_have_their_forms() -> None:
    assert ids.REQUEST_ID.match(ids.new_request_id())
    assert len(bytes.fromhex(ids.new_execution_id())) == 8
    assert ids.new_execution_id() != ids.new_execution_id()
