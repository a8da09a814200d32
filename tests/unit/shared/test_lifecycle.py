from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

import pytest

from shared.lifecycle import ExitCode, StopSignal

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def installed() -> Iterator[StopSignal]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    stop = StopSignal()
    stop.install()
    yield stop
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_asks_for_a_good_end(installed: StopSignal, number: signal.Signals) -> None:
    assert not installed.is_set()
    os.kill(os.getpid(), number)
    assert installed.wait(10)
    assert installed.is_set()
    assert installed.exit_code is ExitCode.OK


def test_a_repeated_signal_changes_nothing(installed: StopSignal) -> None:
    installed.request(ExitCode.RUNNER)
    os.kill(os.getpid(), signal.SIGTERM)
    assert installed.wait(10)
    assert installed.exit_code is ExitCode.RUNNER


def test_the_first_reason_for_an_end_counts() -> None:
    stop = StopSignal()
    stop.request(ExitCode.DEPENDENCY)
    stop.request(ExitCode.CRASHED)
    assert stop.exit_code is ExitCode.DEPENDENCY


def test_who_waits_is_woken_by_another_thread() -> None:
    stop, seen = StopSignal(), []
    waiting = threading.Thread(target=lambda: seen.append(stop.wait(10)))
    waiting.start()
    stop.request()
    waiting.join(10)
    assert seen == [True]


def test_without_a_reason_to_stop_the_wait_ends_with_its_time() -> None:
    assert not StopSignal().wait(0)


def test_exit_codes_differ_and_fit_into_one() -> None:
    assert len({int(code) for code in ExitCode}) == len(ExitCode)
    assert all(0 <= code < 126 for code in ExitCode)
