"""Admission's scripts on a real Redis: exact, idempotent, and right again after any order of events."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter

from services.gateway.admission.errors import (
    AdmissionError,
    QueueFullError,
    QuotaExceededError,
    RateLimitedError,
    TooManyTasksError,
)
from services.gateway.admission.guarded import GuardedAdmission
from services.gateway.admission.local import LocalAdmission
from services.gateway.admission.ports import Application, Place, upload_of
from services.gateway.admission.redis_ledger import LedgerUnavailableError, Note, RedisLedger
from services.gateway.breaker import Breaker
from services.gateway.redis_client import connect
from shared.domain.plans import Rate
from tests.support.waiting import until

if TYPE_CHECKING:
    from tests.support.redis_server import RedisServer

FAR = 4_000_000_000_000
# Level 9 below 3 GPU-seconds outstanding, 8 below 5, then 0: of three tasks the third stands lower.
FALLS_AT = (3.0, 5.0, *(6.0,) * 7)
NEVER = Rate(requests=3, seconds=3600)


def application(number: int = 0, **changes: Any) -> Application:  # noqa: ANN401 - any field
    fields: dict[str, Any] = {
        "task_id": f"task-{number}",
        "tenant_id": "acme",
        "model": "m",
        "subject": "key-1",
        "gpu_seconds": 2.0,
        "rates": (),
        "concurrency": 1,
        "queued": 10_000,
        "gpu_seconds_per_day": 1e9,
        "bound": 1000,
        "falls_at": FALLS_AT,
    }
    return Application(**(fields | changes))


def note(state: str, rank: int, number: int = 0, **changes: Any) -> Note:  # noqa: ANN401 - any field
    fields: dict[str, Any] = {
        "task": f"task-{number}",
        "tenant": "acme",
        "model": "m",
        "state": state,
        "rank": rank,
        "seconds": 2.0,
        "level": 3,
        "expiry": FAR,
        "spent": 1.5 if state == "ended" else 0.0,
        "kept_ms": 60_000 if state == "ended" else 0,
    }
    return Note(**(fields | changes))


@pytest.fixture
def ledger(ledger_redis: RedisServer) -> RedisLedger:
    return RedisLedger(connect(ledger_redis.url, 2.0))


def left(server: RedisServer) -> set[str]:
    """What the ledger holds of tasks that are not over."""
    keys = (str(key) for key in server.client().keys("atelier:ledger:*"))
    return {key for key in keys if ":used:" not in key and ":ended:" not in key}


def used(server: RedisServer) -> float:
    client = server.client()
    (key,) = client.keys("atelier:ledger:tenant:acme:used:*")
    return float(client.get(key) or "nan")


def test_a_burst_is_taken_exactly_and_what_follows_is_told_when_to_come_back(ledger: RedisLedger) -> None:
    for number in range(3):
        admitted = ledger.admit(application(number, rates=(NEVER,)))
        assert admitted.windows[0].remaining == 2 - number
    with pytest.raises(RateLimitedError) as caught:
        ledger.admit(application(3, rates=(NEVER,)))
    assert 1190 < caught.value.retry_after_seconds <= 1200
    assert caught.value.windows[0].remaining == 0
    assert ledger.admit(application(4, rates=(NEVER,), subject="key-2")).waiting == 3


def test_a_refusal_by_one_window_takes_nothing_from_the_other(ledger: RedisLedger) -> None:
    wide, narrow = Rate(requests=10, seconds=7200), Rate(requests=1, seconds=3600)
    ledger.admit(application(0, rates=(narrow, wide)))
    for number in range(1, 4):
        with pytest.raises(RateLimitedError) as caught:
            ledger.admit(application(number, rates=(narrow, wide)))
        assert [window.remaining for window in caught.value.windows] == [0, 9]


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"gpu_seconds_per_day": 3.0}, QuotaExceededError),
        ({"queued": 1}, TooManyTasksError),
        ({"bound": 1}, QueueFullError),
    ],
)
def test_each_bound_has_its_own_refusal_and_a_usable_time(
    ledger: RedisLedger, ledger_redis: RedisServer, changes: dict[str, Any], error: type[AdmissionError]
) -> None:
    ledger.admit(application(0, **changes))
    before = left(ledger_redis)
    with pytest.raises(error) as caught:
        ledger.admit(application(1, **changes))
    assert caught.value.retry_after_seconds >= 1
    assert left(ledger_redis) == before


def test_what_is_no_task_counts_for_the_rates_and_takes_no_place(
    ledger: RedisLedger, ledger_redis: RedisServer
) -> None:
    full = application(0, rates=(NEVER,), queued=1, concurrency=0, bound=1)
    ledger.admit(full)
    before = left(ledger_redis)
    for remaining in (1, 0):
        # Whatever is full and used up.
        admitted = ledger.admit(upload_of("acme", "key-1", (NEVER,)))
        assert admitted.windows[0].remaining == remaining
    with pytest.raises(RateLimitedError):
        ledger.admit(upload_of("acme", "key-1", (NEVER,)))
    with pytest.raises(RateLimitedError):
        ledger.admit(application(1, rates=(NEVER,)))
    assert left(ledger_redis) == before
    assert ledger.admit(application(2)).waiting == 1


def test_nor_does_it_where_one_process_decides_alone() -> None:
    local = LocalAdmission(lambda _model: (5, 0.0), clock=lambda: 0.0)
    for remaining in (2, 1, 0):
        assert local.admit(upload_of("acme", "key-1", (NEVER,))).windows[0].remaining == remaining
    with pytest.raises(RateLimitedError):
        local.admit(upload_of("acme", "key-1", (NEVER,)))
    assert local.admit(application(0, bound=6)).waiting == 5


def test_a_task_that_asks_again_under_its_own_id_is_not_counted_twice(ledger: RedisLedger) -> None:
    ledger.admit(application(0, bound=1))
    assert ledger.admit(application(0, bound=1)).waiting == 1


def test_each_try_again_counts_for_the_rates_and_is_known_to_be_held_once_its_news_came(ledger: RedisLedger) -> None:
    again = application(rates=(NEVER,), again=True)
    assert not ledger.admit(again).held
    ledger.note([note("waiting", 10)])
    assert [ledger.admit(again).held for _ in range(2)] == [True, True]
    with pytest.raises(RateLimitedError):
        ledger.admit(again)
    assert ledger.admit(application(rates=(NEVER,))).held  # the same request once more is free


def test_a_withdrawn_reservation_leaves_nothing_and_a_published_task_stays(
    ledger: RedisLedger, ledger_redis: RedisServer
) -> None:
    ledger.admit(application(0))
    ledger.withdraw("task-0")
    assert left(ledger_redis) == set()
    ledger.admit(application(1))
    ledger.note([note("waiting", 10, 1)])
    ledger.withdraw("task-1")
    assert ledger.admit(application(2)).waiting == 1


def test_a_reservation_that_nobody_confirms_lapses(ledger: RedisLedger, ledger_redis: RedisServer) -> None:
    ledger.admit(application(0, bound=1))
    ledger_redis.client().zadd("atelier:ledger:expiry", {"task-0": 1})
    assert ledger.admit(application(1, bound=1)).waiting == 0


def test_a_whole_life_leaves_only_what_was_spent(ledger: RedisLedger, ledger_redis: RedisServer) -> None:
    ledger.admit(application(0))
    ledger.note([note("waiting", 10), note("running", 11), note("waiting", 20), note("running", 21)])
    assert ledger.admit(application(1)).own_work == 2.0
    ledger.note([note("ended", 29), note("ended", 29, 1, spent=0.0)])
    assert left(ledger_redis) == set()
    assert used(ledger_redis) == pytest.approx(1.5)


def test_a_level_falls_with_what_the_tenant_has_outstanding_on_that_model(ledger: RedisLedger) -> None:
    levels = [level_of(ledger, number) for number in range(4)]
    assert levels == [9, 9, 8, 0]
    assert level_of(ledger, 4, model="other") == 9
    assert level_of(ledger, 5, tenant_id="umbrella") == 9


def level_of(ledger: RedisLedger, number: int, **changes: Any) -> int:  # noqa: ANN401 - any field
    place = ledger.admit(application(number, **changes)).place
    assert place is not None
    return place.level


def test_what_is_ahead_stands_at_the_same_level_or_above(ledger: RedisLedger) -> None:
    for number in range(4):  # at 9, 9, 8 and 0
        ledger.admit(application(number))
    ledger.note([note("waiting", 10, 6, tenant="initech", level=8), note("running", 11, 0)])
    first = ledger.admit(application(7, tenant_id="umbrella")).place
    assert first == Place(level=9, ahead=1, ahead_work=2.0, running=1, running_work=2.0)
    last = ledger.admit(application(8)).place
    assert last == Place(level=0, ahead=5, ahead_work=10.0, running=1, running_work=2.0)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_order_with_repeats_ends_in_the_same_ledger(
    ledger: RedisLedger, ledger_redis: RedisServer, data: st.DataObject
) -> None:
    ledger_redis.client().flushall()
    life = [note("waiting", 10), note("running", 11), note("waiting", 20), note("running", 21), note("ended", 29)]
    told = data.draw(st.permutations(life + data.draw(st.lists(st.sampled_from(life), max_size=4))))
    admitted_at = data.draw(st.integers(0, len(told)))
    for place, one in enumerate(told):
        if place == admitted_at:
            ledger.admit(application(0)) if one.rank == 10 else None
        ledger.note([one])
    assert left(ledger_redis) == set()
    assert ledger.admit(application(9)).own_work == 0


def test_after_a_loss_the_ledger_fills_again_from_events(ledger: RedisLedger, ledger_redis: RedisServer) -> None:
    for number in range(3):
        ledger.admit(application(number))
    ledger_redis.client().flushall()
    ledger_redis.client().script_flush()
    ledger.note([note("running", 11, 0), note("waiting", 20, 1)])
    admitted = ledger.admit(application(5))
    assert (admitted.own_work, admitted.model_work, admitted.waiting) == (4.0, 2.0, 1)


def test_many_at_once_get_exactly_the_bound(ledger_redis: RedisServer) -> None:
    """Four replicas' connections, sixteen threads, 400 tasks for 100 places and a rate of 150."""
    taken, refused = [], []
    rate = Rate(requests=150, seconds=3600)

    def replica(offset: int) -> None:
        ledger = RedisLedger(connect(ledger_redis.url, 5.0))
        for number in range(offset, offset + 25):
            try:
                ledger.admit(application(number, bound=100, rates=(rate,)))
                taken.append(number)
            except AdmissionError as exc:
                refused.append(exc.code)

    threads = [threading.Thread(target=replica, args=(25 * place,)) for place in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 100
    assert set(refused) == {"queue_full"}
    assert ledger_redis.client().scard("atelier:ledger:model:m:waiting") == 100


def test_a_clock_that_was_put_back_locks_nobody_out(ledger_redis: RedisServer) -> None:
    ledger = RedisLedger(connect(ledger_redis.url, 5.0))
    # What a bucket holds after the clock was put back by ten hours.
    ahead = int(ledger_redis.client().time()[0]) * 1000 + 36_000_000
    ledger_redis.client().set(f"atelier:rate:key-1:{NEVER.seconds}", str(ahead))
    taken = [ledger.admit(application(number, rates=(NEVER,))).windows[0].remaining for number in range(3)]
    assert taken == [2, 1, 0]
    with pytest.raises(RateLimitedError):
        ledger.admit(application(3, rates=(NEVER,)))


def readiness(guarded: GuardedAdmission) -> str:
    return "ready" if guarded.problem is None else "degraded"


def test_without_redis_this_process_decides_and_with_it_again_all_do(ledger_redis: RedisServer) -> None:
    fallbacks = Counter("fallbacks", "x", registry=CollectorRegistry())
    now = 0.0
    guarded = GuardedAdmission(
        RedisLedger(connect(ledger_redis.url, 0.2)),
        LocalAdmission(lambda _model: (5, now), clock=lambda: now),
        fallbacks,
        Breaker("ledger", clock=lambda: now),
    )
    assert not guarded.admit(application(0)).degraded
    ledger_redis.pause(2500)
    admitted = guarded.admit(application(1, rates=(NEVER,)))
    assert (admitted.degraded, admitted.waiting) == (True, 5)
    assert readiness(guarded) == "ready"  # one late answer may be the host's
    with pytest.raises(QueueFullError):
        guarded.admit(application(2, bound=6))
    for number in (3, 4):
        guarded.admit(application(number, rates=(NEVER,)))
    assert readiness(guarded) == "degraded"
    with pytest.raises(RateLimitedError):
        guarded.admit(application(5, rates=(NEVER,)))

    def found() -> bool:
        nonlocal now
        now += 2
        with pytest.raises(QueueFullError):  # by Redis as by this process: a refusal is an answer, too
            guarded.admit(application(6, bound=0))
        return readiness(guarded) == "ready"

    until(found, 20, "the ledger's return")
    assert not guarded.admit(application(7)).degraded


def test_a_ledger_that_is_gone_says_so(ledger_redis: RedisServer) -> None:
    ledger = RedisLedger(connect(ledger_redis.url.replace(str(ledger_redis.port), "1"), 0.2))
    with pytest.raises(LedgerUnavailableError):
        ledger.admit(application())


def test_the_owner_of_an_open_task_is_known_until_its_end(ledger: RedisLedger) -> None:
    assert ledger.owner("task-0") is None
    ledger.admit(application(0))
    assert ledger.owner("task-0") == application(0).tenant_id
    ledger.note([note("ended", 19)])
    assert ledger.owner("task-0") is None


def test_while_the_ledger_is_away_no_task_is_known_to_be_open(ledger_redis: RedisServer) -> None:
    fallbacks = Counter("fallbacks", "x", registry=CollectorRegistry())
    gone = RedisLedger(connect(ledger_redis.url.replace(str(ledger_redis.port), "1"), 0.2))
    guarded = GuardedAdmission(gone, LocalAdmission(lambda _model: (0, 0.0)), fallbacks, Breaker("ledger"))
    assert [guarded.owner("task-0") for _ in range(3)] == [None] * 3
    assert readiness(guarded) == "degraded"
