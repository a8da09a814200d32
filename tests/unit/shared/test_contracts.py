from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.contracts.base import decode, encode
from shared.contracts.dead import DeadLetter
from shared.contracts.event import TaskEvent
from shared.contracts.outcome import Claim, Outcome
from shared.contracts.task import TaskMessage
from shared.contracts.worker_report import WorkerReport
from shared.domain.errors import DecodeError, NewerSchemaError
from shared.domain.task import EventType
from tests.support.builders import (
    make_claim,
    make_dead_letter,
    make_event,
    make_outcome,
    make_params,
    make_report,
    make_task,
)

if TYPE_CHECKING:
    from shared.contracts.base import Message

MESSAGES: tuple[Message, ...] = (
    make_task(),
    make_claim(),
    make_outcome(),
    make_dead_letter(),
    make_dead_letter(task=None, body=b"AP8="),
    make_outcome(state="failed"),
    make_report(),
    *(make_event(event_type) for event_type in EventType),
)
KINDS: tuple[type[Message], ...] = (TaskMessage, TaskEvent, Claim, Outcome, DeadLetter, WorkerReport)


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_survives_the_wire(message: Message) -> None:
    assert decode(type(message), encode(message)) == message


@given(prompt=st.text(st.characters(exclude_categories=["Cs"])), seed=st.integers(0, 2**63), guidance=st.floats(0, 1e9))
def test_any_prompt_seed_and_guidance_survive_the_wire(prompt: str, seed: int, guidance: float) -> None:
    task = make_task(params=make_params(prompt=prompt, seed=seed, guidance=guidance))
    assert decode(TaskMessage, encode(task)) == task


@pytest.mark.parametrize("message", MESSAGES)
def test_fields_that_a_newer_version_added_are_tolerated(message: Message) -> None:
    document = json.loads(encode(message))
    for part in (document, *(value for value in document.values() if isinstance(value, dict))):
        part["added_later"] = {"any": ["thing"]}
    if "timings" in document:
        del document["timings"]["added_later"], document["receipt"]["added_later"]
    assert decode(type(message), json.dumps(document).encode()) == message


@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize("readable", [True, False])
def test_a_newer_schema_is_told_apart_whether_or_not_its_fields_can_be_read(message: Message, readable: bool) -> None:
    document = json.loads(encode(message)) if readable else {}
    document["schema"] = 2
    with pytest.raises(NewerSchemaError, match="has schema 2"):
        decode(type(message), json.dumps(document).encode())


@pytest.mark.parametrize("kind", KINDS)
@given(body=st.binary())
def test_bytes_that_are_no_message_are_a_decode_error(kind: type[Message], body: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(kind, body)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(field=st.sampled_from(sorted(json.loads(encode(make_task())))), value=_JSON)
def test_a_task_with_any_value_in_a_field_is_read_or_a_decode_error(field: str, value: object) -> None:
    document = json.loads(encode(make_task())) | {field: value}
    try:
        task = decode(TaskMessage, json.dumps(document).encode())
    except DecodeError as error:
        assert error.message  # noqa: PT017 - either end is right
    else:
        assert decode(TaskMessage, encode(task)) == task


@given(st.integers(0, 400))
def test_a_truncated_task_is_a_decode_error(length: int) -> None:
    with pytest.raises(DecodeError, match="TaskMessage"):
        decode(TaskMessage, encode(make_task())[:length])


@pytest.mark.parametrize(
    ("event_type", "part"),
    [(EventType.QUEUED, "task"), (EventType.STARTED, "worker"), (EventType.PROGRESS, "progress")],
)
def test_an_event_without_its_data_names_what_is_missing(event_type: EventType, part: str) -> None:
    document = json.loads(encode(make_event(event_type)))
    del document["data"][part]
    with pytest.raises(DecodeError, match=f"needs data.{part}"):
        decode(TaskEvent, json.dumps(document).encode())
