from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from shared.auth import failures
from shared.auth.errors import TooManyFailuresError
from shared.auth.failures import FailureBuckets

HERE, THERE = "192.0.2.1", "192.0.2.2"


class Buckets:
    def __init__(self, per_minute: int = 30) -> None:
        self.now = 1000.0
        self.registry = CollectorRegistry()
        self.all = FailureBuckets(per_minute, registry=self.registry, clock=lambda: self.now)

    def fill(self, count: int, address: str = HERE) -> int:
        """So many failures, one after the other; returns how many were counted."""
        counted = 0
        for _ in range(count):
            try:
                self.all.count(address)
            except TooManyFailuresError:
                continue
            counted += 1
        return counted


@pytest.fixture
def buckets() -> Buckets:
    return Buckets()


def test_thirty_at_once_and_then_one_in_two_seconds(buckets: Buckets) -> None:
    assert buckets.fill(100) == 30
    buckets.now += 2
    assert buckets.fill(100) == 1
    buckets.now += 60
    assert buckets.fill(100) == 30


def test_the_refusal_says_when_the_next_may_come(buckets: Buckets) -> None:
    buckets.fill(30)
    buckets.now += 0.5
    with pytest.raises(TooManyFailuresError) as refused:
        buckets.all.check(HERE)
    assert refused.value.retry_after_seconds == pytest.approx(1.5)
    buckets.now += refused.value.retry_after_seconds
    buckets.all.check(HERE)
    assert buckets.registry.get_sample_value("atelier_auth_throttled_total") == 1


def test_one_address_does_not_empty_the_bucket_of_another(buckets: Buckets) -> None:
    buckets.fill(30)
    buckets.all.check(THERE)
    assert buckets.fill(31, THERE) == 30


def test_asking_takes_nothing(buckets: Buckets) -> None:
    buckets.fill(29)
    for _ in range(100):
        buckets.all.check(HERE)
    assert buckets.fill(2) == 1


def test_an_attempt_that_succeeds_or_breaks_costs_nothing_and_one_that_fails_does(buckets: Buckets) -> None:
    for number in range(100):
        with buckets.all.attempt(HERE, str(number)):
            pass
        with pytest.raises(KeyError), buckets.all.attempt(HERE, str(number)):
            raise KeyError
    for number in range(30):
        with buckets.all.attempt(HERE, str(number)) as fail:
            fail()
    with pytest.raises(TooManyFailuresError), buckets.all.attempt(HERE, "one more"):
        pytest.fail("it was tried")


def test_attempts_side_by_side_cannot_pass_the_bound() -> None:
    buckets = Buckets(per_minute=2)
    with buckets.all.attempt(HERE, "a"), buckets.all.attempt(HERE, "b"):
        with pytest.raises(TooManyFailuresError), buckets.all.attempt(HERE, "c"):
            pytest.fail("it was tried")
        with buckets.all.attempt(HERE, "a"), buckets.all.attempt(HERE, "b"):
            pass  # the same again is no further guess
    assert buckets.fill(3) == 2


def test_what_is_remembered_is_bounded(buckets: Buckets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "_MOST_ADDRESSES", 3)
    for address in ("a", "b", "c", "d"):
        buckets.fill(30, address)
    assert buckets.fill(1, "d") == 0
    assert buckets.fill(30, "a") == 30
