"""The finisher gives way to a task that is about to start, and to nothing else."""

from __future__ import annotations

import threading

from services.worker.precedence import Precedence

LONG = 30.0  # seconds: a wait of this length would fail by the test's own timeout


def given_way(precedence: Precedence) -> threading.Event:
    passed = threading.Event()

    def finish() -> None:
        precedence.give_way()
        passed.set()

    threading.Thread(target=finish, daemon=True).start()
    return passed


def test_it_does_not_wait_for_a_task_that_computes() -> None:
    precedence = Precedence(delivery_seconds=LONG, start_seconds=LONG)
    precedence.look()
    precedence.start()
    precedence.done()
    precedence.give_way()


def test_it_waits_until_the_task_that_came_has_begun() -> None:
    precedence = Precedence(delivery_seconds=LONG, start_seconds=LONG)
    precedence.look()
    passed = given_way(precedence)
    precedence.start()
    assert not passed.wait(0.05)
    precedence.done()
    assert passed.wait(LONG)


def test_it_waits_for_a_start_no_longer_than_a_bound() -> None:
    precedence = Precedence(delivery_seconds=LONG, start_seconds=0.01)
    precedence.start()
    precedence.give_way()


def test_it_goes_on_soon_where_no_task_comes() -> None:
    precedence = Precedence(delivery_seconds=0.01, start_seconds=LONG)
    precedence.look()
    precedence.give_way()
