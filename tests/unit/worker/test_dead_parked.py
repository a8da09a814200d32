"""Reading whatever lies in tasks.dead, and which of it a filter means."""

from __future__ import annotations

import hashlib
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.worker.dead.parked import Filter, Form, read
from shared.contracts.base import encode
from shared.messaging import messages
from shared.messaging.ports import Delivery
from tests.support.builders import MODEL, NOW, TASK_ID, TENANT, make_dead_letter, make_task
from tests.support.dead import DeadWorld, as_newer

PARKED_AT = make_dead_letter().parked_at
SECOND = timedelta(seconds=1)


@pytest.fixture
def world() -> DeadWorld:
    return DeadWorld()


def test_a_parked_task_is_read_with_everything_in_it(world: DeadWorld) -> None:
    letter = world.park()
    (parked,) = world.seen()
    assert (parked.form, parked.ident, parked.task) == (Form.LETTER, TASK_ID, letter.task)
    for name in ("reason", "detail", "parked_at", "parked_by", "attempts", "last_error", "stack", "body", "origin"):
        assert getattr(parked, name) == getattr(letter, name)


def test_a_message_that_nobody_can_read_is_named_by_its_own_id(world: DeadWorld) -> None:
    world.park_body(b"\x00\xff", message_id="m-1")
    (parked,) = world.seen()
    assert (parked.form, parked.ident, parked.task, parked.body) == (Form.LETTER, "m-1", None, b"\x00\xff")


def test_one_without_an_id_is_named_by_its_bytes(world: DeadWorld) -> None:
    world.park_body(b"one")
    world.park_body(b"two")
    assert [parked.ident for parked in world.seen()] == [
        f"raw-{hashlib.sha256(body).hexdigest()[:16]}" for body in (b"one", b"two")
    ]


def test_a_task_that_the_first_version_parked_is_read_as_far_as_it_tells(world: DeadWorld) -> None:
    world.park_as_before(encode(make_task(attempt=3)), message_id=TASK_ID)
    (parked,) = world.seen()
    assert (parked.form, parked.ident, parked.task) == (Form.LEGACY, TASK_ID, make_task(attempt=3))
    assert (parked.reason, parked.detail, parked.parked_at) == ("runner_crashed", "it died", None)


def test_bytes_that_the_first_version_parked_are_kept(world: DeadWorld) -> None:
    world.park_as_before(b"not json", reason="undecodable")
    (parked,) = world.seen()
    assert (parked.form, parked.ident, parked.task, parked.body) == (Form.LEGACY, "m-1", None, b"not json")


def test_a_letter_of_a_newer_version_is_shown_as_unreadable_with_its_reason() -> None:
    letter = make_dead_letter()
    delivery = delivered(as_newer(letter), {messages.HEADER_REASON: "backend_error"})
    parked = read(delivery)
    assert (parked.form, parked.reason, parked.body) == (Form.UNREADABLE, "backend_error", delivery.body)
    assert "schema 2" in parked.detail


@given(body=st.binary(max_size=100), form=st.sampled_from([messages.DEAD_TYPE, "dead", None]))
def test_any_bytes_are_read_as_something_that_can_be_listed(body: bytes, form: str | None) -> None:
    parked = read(delivered(body, {}, form))
    assert parked.ident
    assert parked.body == body
    assert Filter().matches(parked)


def delivered(body: bytes, headers: dict[str, object], form: str | None = messages.DEAD_TYPE) -> Delivery:
    return Delivery(
        body=body,
        exchange="atelier.dead",
        routing_key="x",
        redelivered=False,
        headers=headers,
        message_id=None,
        type=form,
        priority=0,
        tag=1,
        epoch=1,
    )


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        (Filter(), True),
        (Filter(ident=TASK_ID, model=MODEL, tenant=TENANT, reason="runner_crashed"), True),
        (Filter(ident="another"), False),
        (Filter(model="another"), False),
        (Filter(tenant="another"), False),
        (Filter(reason="another"), False),
        (Filter(before=PARKED_AT + SECOND), True),
        (Filter(before=PARKED_AT), False),
        (Filter(after=PARKED_AT - SECOND), True),
        (Filter(after=PARKED_AT), False),
        (Filter(after=PARKED_AT - SECOND, before=PARKED_AT + SECOND), True),
        (Filter(model=MODEL, tenant="another"), False),
    ],
)
def test_a_filter_means_those_for_which_all_of_it_holds(world: DeadWorld, wanted: Filter, matches: bool) -> None:
    world.park()
    assert len(world.seen(wanted)) == matches


@pytest.mark.parametrize("wanted", [Filter(model=""), Filter(tenant=""), Filter(model=MODEL), Filter(tenant=TENANT)])
def test_what_is_not_known_of_a_message_matches_nothing(world: DeadWorld, wanted: Filter) -> None:
    world.park_body()
    assert world.seen(wanted) == []


@pytest.mark.parametrize("wanted", [Filter(before=NOW + timedelta(days=365)), Filter(after=NOW)])
def test_a_message_of_unknown_age_is_neither_old_nor_new(world: DeadWorld, wanted: Filter) -> None:
    world.park_as_before(encode(make_task()))
    assert world.seen(wanted) == []
    assert len(world.seen()) == 1
