"""Whatever arrives is either read or is a DecodeError: a consumer knows no third case."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.contracts.base import decode, encode
from shared.contracts.dead import DeadLetter
from shared.contracts.event import TaskEvent
from shared.contracts.outcome import Claim, Outcome
from shared.contracts.task import TaskMessage
from shared.domain.errors import DecodeError, NewerSchemaError
from shared.domain.task import EventType
from tests.support.builders import make_claim, make_dead_letter, make_event, make_outcome, make_params, make_task

if TYPE_CHECKING:
    from shared.contracts.base import Message

EXAMPLES: Final[tuple[Message, ...]] = (
    make_task(),
    make_claim(),
    make_outcome(),
    make_dead_letter(),
    make_dead_letter(task=None, body=b"AP8="),
    *(make_event(event_type) for event_type in EventType),
)
KINDS: Final = (TaskMessage, TaskEvent, Claim, Outcome, DeadLetter)
JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def read_or_refuse(kind: type[Message], body: bytes) -> None:
    try:
        message = decode(kind, body)
    except DecodeError:
        return
    assert decode(kind, encode(message)) == message


def places(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    inner: list[tuple[str | int, ...]] = []
    if isinstance(value, dict):
        inner = [place for key, item in value.items() for place in places(item, (*path, key))]
    elif isinstance(value, list):
        inner = [place for number, item in enumerate(value) for place in places(item, (*path, number))]
    return [path, *inner] if path else inner


def replaced(document: dict[str, Any], path: tuple[str | int, ...], value: object) -> bytes:
    parent: Any = document
    for step in path[:-1]:
        parent = parent[step]
    parent[path[-1]] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: f"{type(message).__name__}")
def test_what_is_written_is_read_back(message: Message) -> None:
    assert decode(type(message), encode(message)) == message


@given(kind=st.sampled_from(KINDS), body=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(kind: type[Message], body: bytes) -> None:
    read_or_refuse(kind, body)


@given(kind=st.sampled_from(KINDS), document=JSON)
def test_any_json_is_read_or_refused(kind: type[Message], document: object) -> None:
    read_or_refuse(kind, json.dumps(document).encode())


@settings(max_examples=100)
@given(message=st.sampled_from(EXAMPLES), value=JSON, data=st.data())
def test_any_value_in_any_place_is_read_or_refused(message: Message, value: object, data: st.DataObject) -> None:
    document = json.loads(encode(message))
    path = data.draw(st.sampled_from(places(document)))
    read_or_refuse(type(message), replaced(document, path, value))


@given(message=st.sampled_from(EXAMPLES), data=st.data())
def test_a_body_that_was_cut_is_refused(message: Message, data: st.DataObject) -> None:
    body = encode(message)
    cut = data.draw(st.integers(0, len(body) - 1))
    with pytest.raises(DecodeError):
        decode(type(message), body[:cut])


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 100_000, b'{"schema": 1' + b"0" * 5000 + b"}"])
def test_a_body_made_to_hurt_the_parser_is_refused(body: bytes) -> None:
    with pytest.raises(DecodeError):
        decode(TaskMessage, body)


def test_fields_of_a_later_minor_change_are_ignored_wherever_they_stand() -> None:
    document = json.loads(encode(make_outcome()))
    expected = decode(Outcome, json.dumps(document).encode())
    for part in (document, document["task"], document["task"]["params"], document["artifacts"][0]):
        part["added_later"] = {"by": "somebody"}
    assert decode(Outcome, json.dumps(document).encode()) == expected


@pytest.mark.parametrize("still_readable", [True, False])
@pytest.mark.parametrize("message", EXAMPLES[:4], ids=lambda message: type(message).__name__)
def test_a_newer_schema_is_told_from_a_broken_message(message: Message, still_readable: bool) -> None:
    document = json.loads(encode(message)) if still_readable else {"all": "different"}
    document["schema"] = 2
    with pytest.raises(NewerSchemaError, match="has schema 2, this software reads up to 1"):
        decode(type(message), json.dumps(document).encode())


@pytest.mark.parametrize("version", [0, -1, "one", None, [2]])
def test_a_schema_that_is_no_version_is_a_broken_message(version: object) -> None:
    document = json.loads(encode(make_claim())) | {"schema": version}
    with pytest.raises(DecodeError) as failure:
        decode(Claim, json.dumps(document).encode())
    assert not isinstance(failure.value, NewerSchemaError)


def test_the_reason_names_the_field_and_shows_no_prompt() -> None:
    document = json.loads(encode(make_task(params=make_params(prompt="a secret garden"))))
    document["params"]["width"] = 0
    with pytest.raises(DecodeError, match=r"params\.width") as failure:
        decode(TaskMessage, json.dumps(document).encode())
    assert "secret" not in str(failure.value)
