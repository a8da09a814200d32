"""What happens at the same time in a supervisor: ends that come late, stops that come early, a child that stays."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from services.worker.errors import RunnerLoadError
from services.worker.job import Job
from services.worker.recycling import Recycling
from services.worker.supervisor import RunnerState
from shared.domain.errors import BackendError, RunnerCrashedError, RunnerHungError
from tests.support.runner import BACKENDS, UNLIMITED, wait_gone
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.runner import RealRunner

SECONDS = 30


def living_children() -> set[int]:
    return {child.pid for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE}


def launches(logged: Callable[[], list[dict[str, Any]]]) -> int:
    return sum(line["message"] == "runner_started" for line in logged())


def test_the_late_end_of_one_child_does_not_touch_the_next(
    real: RealRunner, logged: Callable[[], list[dict[str, Any]]]
) -> None:
    main, told = threading.current_thread(), threading.Event()

    def count() -> int:
        # Asked in the thread that hears of the first one's end, which waits here until the second one loads.
        if threading.current_thread() is not main:
            until(lambda: supervisor.pid not in {None, first}, SECONDS, "the next child")
            told.set()
        return 0

    supervisor = real.supervise(oom_kills=count)
    supervisor.ensure_ready()
    first = supervisor.pid
    real.child().kill()
    until(lambda: supervisor.state is RunnerState.DEAD, SECONDS, "the news of the death")
    supervisor.ensure_ready()
    assert told.wait(SECONDS)
    assert real.run().receipt["pid"] == supervisor.pid
    assert launches(logged) == 2


def test_a_child_without_memory_is_gone_before_the_next_one_starts(
    real: RealRunner, logged: Callable[[], list[dict[str, Any]]]
) -> None:
    others = living_children()  # servers of other tests
    supervisor = real.supervise(f"{BACKENDS}.loading:FindsNoMemoryAtFirst")
    supervisor.ensure_ready()
    assert launches(logged) == 2
    assert len(list(real.model.glob("load-*"))) == 2
    assert living_children() - others == {supervisor.pid}


def test_a_child_that_the_kernel_kills_while_it_loads_is_tried_again_within_the_budget(real: RealRunner) -> None:
    kills = iter(range(100))
    supervisor = real.supervise(f"{BACKENDS}.loading:KillsItselfInLoad", oom_kills=lambda: next(kills))
    with pytest.raises(RunnerLoadError, match="died 3 times"):
        supervisor.ensure_ready()


def test_a_stop_between_the_decision_to_start_and_the_start_waits_for_no_model(real: RealRunner) -> None:
    def count() -> int:
        if supervisor.state is RunnerState.NEW:
            supervisor.stop_loading()
        return 0

    supervisor = real.supervise(f"{BACKENDS}.loading:HangsInLoad", oom_kills=count, load_base=SECONDS)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(supervisor.ensure_ready).result(SECONDS / 2)
    assert supervisor.state is RunnerState.DEAD


def test_a_host_that_can_start_no_process_is_a_death_within_the_budget(
    real: RealRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(11, "Resource temporarily unavailable")

    supervisor, before = real.supervise(), psutil.Process().num_fds()
    monkeypatch.setattr(subprocess, "Popen", refuse)
    with pytest.raises(RunnerLoadError, match="died 3 times"):
        supervisor.ensure_ready()
    assert psutil.Process().num_fds() == before


def test_a_worn_out_child_whose_files_never_come_is_replaced_all_the_same(real: RealRunner) -> None:
    real.supervise(recycling=Recycling(after_tasks=1), encode=0.2)
    real.supervisor.ensure_ready()
    job, _ = real.begin("encode_slowly")
    real.supervisor.wait_computed(job, UNLIMITED)
    real.supervisor.ensure_ready()
    assert job.encoded.done()
    assert real.run().artifacts


def test_files_that_come_before_the_end_of_the_computation_end_it(real: RealRunner) -> None:
    real.supervisor.ensure_ready()
    job, _ = real.begin("have_files_before_the_end")
    with pytest.raises(BackendError, match="its files came before"):
        job.computed.result(SECONDS)


def test_a_child_that_does_not_read_holds_nobody_who_speaks_to_it(real: RealRunner) -> None:
    real.supervisor.ensure_ready()
    child = real.child()
    child.suspend()
    with ThreadPoolExecutor(1) as pool:
        job, _ = pool.submit(real.begin, "x" * 10_000_000).result(SECONDS)
        with pytest.raises(RunnerCrashedError, match="ended with signal SIGKILL"):
            job.computed.result(SECONDS)
    wait_gone(child)


def test_a_child_that_cannot_be_killed_fails_its_task_and_ends_the_worker(
    real: RealRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a process does that hangs in a broken driver: no signal is of use, and it does not end."""
    real.reap_seconds = 0.2
    supervisor = real.supervise()
    supervisor.ensure_ready()
    child = real.child()
    with monkeypatch.context() as powerless:
        powerless.setattr(subprocess.Popen, "send_signal", lambda *_: None)
        job, _ = real.begin("hang_deaf")
        supervisor.interrupt(job, RunnerHungError("no progress"))
        with pytest.raises(RunnerHungError):
            job.computed.result(SECONDS)
        with pytest.raises(RunnerLoadError, match="cannot be ended"):
            supervisor.ensure_ready()
        supervisor.stop(0.1)
    os.kill(child.pid, signal.SIGKILL)
    wait_gone(child)


def test_whatever_a_word_does_to_its_hearer_the_end_of_the_child_is_noticed(
    real: RealRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trip(*_: object) -> None:
        raise ZeroDivisionError

    real.supervisor.ensure_ready()
    monkeypatch.setattr(Job, "sign", trip)
    job, _ = real.begin("paint")
    with pytest.raises(RunnerCrashedError, match="signal SIGKILL"):
        job.computed.result(SECONDS)
