from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from shared.lifecycle import ExitCode, StopSignal, raise_descriptor_limit
from tests.support.logs import captured_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT: Final = Path(__file__).parents[3]


@pytest.fixture
def installed() -> Iterator[StopSignal]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    hook = threading.excepthook
    stop = StopSignal()
    stop.install()
    yield stop
    threading.excepthook = hook
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


IN_BETWEEN = """
import signal, sys, threading
from shared.lifecycle import StopSignal

def trace(frame, kind, _argument):
    if kind == "call" and frame.f_code is threading.Condition.wait.__code__ and not raised:
        raised.append(True)
        signal.raise_signal(signal.SIGTERM)

raised = []
stop = StopSignal()
stop.install()
sys.settrace(trace)
print(stop.wait(20), bool(raised))
"""


def test_a_signal_in_the_moment_of_going_to_sleep_does_not_stop_the_process_for_ever() -> None:
    """The main thread holds the event's lock then."""
    done = subprocess.run(
        [sys.executable, "-c", IN_BETWEEN], capture_output=True, text=True, timeout=60, check=True, cwd=CHECKOUT
    )
    assert done.stdout.splitlines()[-1] == "True True"


def test_a_thread_that_dies_unexpectedly_ends_the_process_with_a_code(
    installed: StopSignal,
) -> None:
    def trip() -> None:
        raise ZeroDivisionError

    with captured_lines() as logged:
        threading.Thread(target=trip, name="vigil").start()
        assert installed.wait(10)
        (line,) = [line for line in logged() if line["message"] == "thread_died"]
    assert line["thread"] == "vigil"
    assert "ZeroDivisionError" in line["error.stack_trace"]
    assert installed.exit_code is ExitCode.CRASHED


def test_a_thread_that_leaves_on_purpose_ends_nothing(installed: StopSignal) -> None:
    leaving = threading.Thread(target=sys.exit)
    leaving.start()
    leaving.join(10)
    assert not installed.is_set()


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


@pytest.mark.parametrize(
    ("soft", "hard", "expected"),
    [
        (1024, 1_000_000, (13_000, 1_000_000)),
        (1024, 4096, (4096, 4096)),
        (1024, resource.RLIM_INFINITY, (13_000, resource.RLIM_INFINITY)),
        (20_000, 1_000_000, None),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, None),
        (4096, 4096, None),
    ],
)
def test_descriptors_are_raised_as_far_as_the_system_allows(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, expected: tuple[int, int] | None
) -> None:
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: given.append(limits))
    raise_descriptor_limit(13_000)
    assert given == ([expected] if expected else [])
