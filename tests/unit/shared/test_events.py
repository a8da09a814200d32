from __future__ import annotations

import json
from datetime import timedelta
from typing import Final

import pytest

from shared.contracts.base import decode, encode
from shared.contracts.event import (
    REQUIRED,
    SEQUENCE_ENDED,
    TaskEvent,
    encode_queued_event,
    ended_event,
    queued_event,
    started_event,
)
from shared.domain.errors import DecodeError
from shared.domain.task import STATE_AFTER, EventType, TaskState
from tests.support.builders import (
    EXECUTION,
    NOW,
    TASK_ID,
    TENANT,
    TRACEPARENT,
    WORKER,
    make_event,
    make_outcome,
    make_params,
)
from tests.support.builders import make_task as task

EVERY_TYPE: Final = list(EventType)
FINAL: Final = [kind for kind in EventType if STATE_AFTER[kind].is_final]


@pytest.mark.parametrize("event_type", EVERY_TYPE)
def test_the_same_news_has_the_same_id_whoever_tells_it(event_type: EventType) -> None:
    assert make_event(event_type).event_id == make_event(event_type).event_id


def test_different_news_have_different_ids() -> None:
    events = [make_event(kind, task(attempt=attempt)) for kind in EventType for attempt in (1, 2)]
    assert len({event.event_id for event in events}) == len(events)


@pytest.mark.parametrize("event_type", EVERY_TYPE)
def test_an_event_built_without_validation_would_have_passed_it(event_type: EventType) -> None:
    event = make_event(event_type)
    assert decode(TaskEvent, encode(event)) == event


@pytest.mark.parametrize("event_type", EVERY_TYPE)
def test_an_event_is_about_its_task_and_carries_its_trace(event_type: EventType) -> None:
    event = make_event(event_type)
    assert (event.task_id, event.tenant_id, event.type) == (TASK_ID, TENANT, event_type)
    assert (event.request_id, event.traceparent) == ("request-0001", TRACEPARENT)
    assert event.routing_key == f"{event_type}.{TENANT}"


@pytest.mark.parametrize(("event_type", "name"), [(kind, name) for kind in EventType for name in REQUIRED[kind]])
def test_an_event_without_its_required_data_is_refused(event_type: EventType, name: str) -> None:
    document = json.loads(encode(make_event(event_type)))
    del document["data"][name]
    with pytest.raises(DecodeError, match=rf"a {event_type} event needs data\.{name}"):
        decode(TaskEvent, json.dumps(document).encode())


def test_events_of_an_attempt_are_ordered_by_sequence() -> None:
    kinds = (EventType.QUEUED, EventType.STARTED, EventType.PROGRESS, EventType.SUCCEEDED)
    sequences = [make_event(kind).sequence for kind in kinds]
    assert sequences == sorted(set(sequences))
    assert sequences[-1] == SEQUENCE_ENDED


def test_news_of_a_retry_belong_to_the_attempt_that_will_come() -> None:
    retrying = make_event(EventType.RETRYING, task(attempt=1))
    assert retrying.attempt == 2
    started = started_event(task(attempt=2), worker=WORKER, execution=EXECUTION, at=NOW)
    assert (retrying.attempt, retrying.sequence) < (started.attempt, started.sequence)


def test_an_end_is_told_with_the_attempt_and_time_of_its_outcome() -> None:
    outcome = make_outcome(task=task(attempt=1), attempt=3, ended_at=NOW + timedelta(hours=1))
    event = ended_event(outcome)
    assert (event.attempt, event.sequence, event.at) == (3, SEQUENCE_ENDED, outcome.ended_at)
    assert event.data.outcome == outcome


def test_every_final_state_has_its_event() -> None:
    ends = {ended_event(make_outcome(state=state)).type for state in TaskState if state.is_final}
    assert ends == set(FINAL)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"request_id": None, "traceparent": None},
        {"submitted_at": NOW + timedelta(microseconds=1)},
        {"attempt": 2, "tenant_id": "a-b_c"},
        {"params": make_params(prompt='<caption>"a",\u00e9\n\U0001f600 \\( {} </caption>', prompt_format="xml")},
    ],
)
def test_a_queued_event_around_an_encoded_task_is_the_queued_event_byte_for_byte(changes: dict[str, object]) -> None:
    submitted = task(**changes)
    assert encode_queued_event(submitted, encode(submitted)) == encode(queued_event(submitted))
