from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import pytest

from services.gateway.admission.gather import Gather
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from concurrent.futures import Future


def waits(gather: Gather[int, int], count: int) -> bool:
    return len(gather._waiting) == count


class Slow:
    """Doubles numbers, each call only when the test lets it; negative ones break the call."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.let = threading.Semaphore(0)

    def __call__(self, questions: Sequence[int]) -> list[int]:
        self.calls.append(list(questions))
        self.let.acquire()
        if min(questions) < 0:
            message = f"of {len(questions)}"
            raise ValueError(message)
        return [2 * question for question in questions]


def crowd(
    pool: ThreadPoolExecutor, gather: Gather[int, int], slow: Slow, numbers: Iterable[int]
) -> tuple[Future[int], list[Future[int]]]:
    """One that asks (for 1), and others that wait in this order meanwhile."""
    first = pool.submit(gather.ask, 1)
    until(lambda: slow.calls == [[1]], what="the first asks")
    others = []
    for count, number in enumerate(numbers, 1):
        others.append(pool.submit(gather.ask, number))
        until(partial(waits, gather, count))
    return first, others


def test_one_that_finds_nobody_asks_alone() -> None:
    slow = Slow()
    slow.let.release(3)
    gather = Gather(slow)
    assert [gather.ask(number) for number in (1, 2, 3)] == [2, 4, 6]
    assert slow.calls == [[1], [2], [3]]


def test_those_who_come_meanwhile_are_asked_for_together_and_each_gets_its_own() -> None:
    slow = Slow()
    gather = Gather(slow, most=3)
    with ThreadPoolExecutor(8) as pool:
        first, others = crowd(pool, gather, slow, range(2, 7))
        slow.let.release(3)
        assert first.result() == 2
        assert [other.result() for other in others] == [4, 6, 8, 10, 12]
    assert slow.calls == [[1], [2, 3, 4], [5, 6]]


def test_what_goes_wrong_is_told_to_everybody_who_waits_and_the_next_ask_again() -> None:
    slow = Slow()
    gather = Gather(slow, most=2)
    with ThreadPoolExecutor(8) as pool:
        first, others = crowd(pool, gather, slow, (-2, 3, 4))
        slow.let.release(2)
        assert first.result() == 2
        for other in others:
            with pytest.raises(ValueError, match="of 2"):
                other.result()
    slow.let.release()
    assert gather.ask(5) == 10
    assert slow.calls == [[1], [-2, 3], [5]]


@pytest.mark.exhaustive
def test_a_crowd_is_answered_without_a_question_lost_or_asked_twice() -> None:
    asked: list[int] = []

    def send(questions: Sequence[int]) -> list[int]:
        asked.extend(questions)
        return [-question for question in questions]

    gather = Gather(send, most=5)
    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(gather.ask, range(2000))) == [-number for number in range(2000)]
    assert sorted(asked) == list(range(2000))
