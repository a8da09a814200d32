"""The order of record and publish, over records in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry, Counter

from services.gateway.breaker import Breaker
from services.gateway.errors import SubmitUnknownError
from services.gateway.idempotency.errors import (
    IdempotencyInFlightError,
    RecordsUnavailableError,
)
from services.gateway.idempotency.guarded import GuardedRecords
from services.gateway.idempotency.memory import MemoryRecords
from services.gateway.idempotency.once import Answer, Once
from services.gateway.idempotency.ports import End, Turn
from services.gateway.idempotency.wanted import Wanted
from tests.unit.gateway.conftest import REPEATS

if TYPE_CHECKING:
    from collections.abc import Callable


KEYED = Wanted(tenant_id="acme", key="k", path="/generate", document={}, repeatable=False, counted=False)
SEEDED_ONE = Wanted(tenant_id="acme", key=None, path="/generate", document={}, repeatable=True, counted=False)


def counter() -> Counter:
    return Counter("replays", "x", ["kind"], registry=CollectorRegistry())


class Bench:
    """Once over records in memory, under a clock that only its pauses move."""

    def __init__(self) -> None:
        self.now = 0.0
        self.records = MemoryRecords(lambda: self.now)
        self.replays = counter()
        self.once = Once(self.records, REPEATS, self.replays, pause=self.pause, clock=lambda: self.now)
        self.meanwhile: Callable[[], None] = lambda: None

    def pause(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile()


def accept(turn: Turn) -> Answer:
    return answer_of(turn.task_id)


def answer_of(task_id: str) -> Answer:
    return Answer(task_id=task_id, body=f'{{"task_id":"{task_id}"}}', found="miss")


def test_while_the_first_is_answered_the_key_is_in_flight_and_then_it_is_given_up() -> None:
    bench = Bench()

    def crash(turn: Turn) -> Answer:
        with pytest.raises(IdempotencyInFlightError) as caught:
            bench.once.submit(KEYED, accept)
        assert caught.value.retry_after_seconds == REPEATS.stale_after
        raise SystemExit(turn.task_id)

    with pytest.raises(SystemExit) as gone:
        bench.once.submit(KEYED, crash)
    bench.now = REPEATS.stale_after
    taken = bench.once.submit(KEYED, accept)
    assert (taken.task_id, taken.replayed) == (str(gone.value.code), True)


def test_a_request_with_an_image_is_given_up_later() -> None:
    bench = Bench()
    bench.once = Once(bench.records, replace(REPEATS, image_seconds=20.0), bench.replays, clock=lambda: bench.now)
    illustrated = replace(KEYED, document={**KEYED.document, "image": "img_1"})

    def crash(turn: Turn) -> Answer:
        with pytest.raises(IdempotencyInFlightError) as caught:
            bench.once.submit(illustrated, accept)
        assert caught.value.retry_after_seconds == REPEATS.stale_after + 20.0
        raise SystemExit(turn.task_id)

    with pytest.raises(SystemExit):
        bench.once.submit(illustrated, crash)


def in_flight(bench: Bench) -> str:
    """An equal request without a key whose gateway has not answered."""

    def vanish(turn: Turn) -> Answer:
        raise SystemExit(turn.task_id)

    with pytest.raises(SystemExit) as gone:
        bench.once.submit(SEEDED_ONE, vanish)
    return str(gone.value.code)


@pytest.mark.parametrize("end", End)
def test_an_equal_request_without_a_key_waits_for_the_first_ones_end(end: End) -> None:
    bench = Bench()
    first = bench.once._claim(SEEDED_ONE)
    bench.records.claim(first)
    bench.meanwhile = lambda: bench.records.settle(first, first.task_id, end, answer_of(first.task_id).record())
    published: list[str] = []

    def publish(turn: Turn) -> Answer:
        published.append(turn.task_id)
        return accept(turn)

    answer = bench.once.submit(SEEDED_ONE, publish)
    if end is End.ACCEPTED:
        assert answer == replace(answer_of(first.task_id), replayed=True)
        assert bench.replays.labels(kind="retry")._value.get() == 1
        assert published == []
    else:
        assert published == [answer.task_id]
        same_task = end is End.UNKNOWN
        assert (answer.task_id == first.task_id, answer.replayed) == (same_task, same_task)


def test_an_equal_request_without_a_key_waits_no_longer_than_a_publish() -> None:
    bench = Bench()
    task_id = in_flight(bench)
    with pytest.raises(SubmitUnknownError) as caught:
        bench.once.submit(SEEDED_ONE, accept)
    assert caught.value.task_id == task_id
    assert REPEATS.publish_timeout <= bench.now < REPEATS.publish_timeout + 0.3


def test_records_that_go_away_meanwhile_do_not_double_the_task() -> None:
    bench = Bench()
    task_id = in_flight(bench)

    def lose() -> None:
        bench.records.available = False

    bench.meanwhile = lose
    answer = bench.once.submit(SEEDED_ONE, accept)
    assert (answer.task_id, answer.replayed) == (task_id, True)


def test_without_redis_a_key_is_refused_with_the_reason_and_others_are_new() -> None:
    once = Once(None, REPEATS, counter())
    ids = {once.submit(SEEDED_ONE, accept).task_id for _ in range(2)}
    assert len(ids) == 2
    with pytest.raises(Exception, match="operator") as caught:
        once.submit(KEYED, accept)
    assert getattr(caught.value, "code", "") == "idempotency_unavailable"


def test_while_the_records_are_away_one_request_a_second_asks_for_them() -> None:
    now, records = 0.0, MemoryRecords(lambda: 0.0)
    guarded = GuardedRecords(records, Breaker("records", clock=lambda: now))
    claim = Bench().once._claim(KEYED)
    records.available = False
    for _ in range(5):
        with pytest.raises(RecordsUnavailableError):
            guarded.leave(claim)
    assert len(records.calls) == 3
    now, records.available = 1.0, True
    guarded.leave(claim)
    guarded.leave(claim)
    assert len(records.calls) == 5
