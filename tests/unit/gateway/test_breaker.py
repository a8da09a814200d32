from __future__ import annotations

from services.gateway.breaker import Breaker
from shared.domain.errors import StorageError

LATE = StorageError("late")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_only_so_many_late_answers_in_a_row_mean_that_a_service_is_away() -> None:
    breaker = Breaker("redis", Clock())
    for _ in range(5):
        breaker.failed(LATE)
        breaker.failed(LATE)
        assert breaker.may_ask()
        breaker.answered()
    for _ in range(3):
        assert breaker.problem is None
        breaker.failed(LATE)
    assert breaker.problem == "late"
    assert not breaker.may_ask()


def test_one_request_in_a_while_finds_out_whether_it_is_back() -> None:
    clock = Clock()
    breaker = Breaker("redis", clock)
    for _ in range(3):
        breaker.failed(LATE)
    clock.now = 1.0
    assert [breaker.may_ask() for _ in range(3)] == [True, False, False]
    breaker.failed(LATE)
    clock.now = 1.9
    assert not breaker.may_ask()
    clock.now = 2.0
    assert breaker.may_ask()
    breaker.answered()
    assert (breaker.problem, breaker.may_ask(), breaker.may_ask()) == (None, True, True)
