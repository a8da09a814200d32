from __future__ import annotations

from services.status.consumer.bootstrap import database_problem
from services.status.consumer.loops import run_together
from services.status.store.memory import MemoryTaskViewStore
from shared.lifecycle import ExitCode, StopSignal


def test_when_one_loop_crashes_the_others_end_and_the_process_says_so() -> None:
    ended: list[str] = []

    def crashing(_stop: StopSignal) -> None:
        text = "a bug"
        raise RuntimeError(text)

    def patient(stop: StopSignal) -> None:
        stop.wait(60)
        ended.append("patient")

    stop = StopSignal()
    run_together([crashing, patient], stop)
    assert ended == ["patient"]
    assert stop.exit_code is ExitCode.CRASHED


def test_readiness_tells_what_is_wrong_with_the_database() -> None:
    store = MemoryTaskViewStore()
    assert database_problem(store) is None
    store.available = False
    assert database_problem(store) == "the database is switched off"
