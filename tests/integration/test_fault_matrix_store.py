"""The fault matrix, fourth part: a store that breaks, hangs, answers 500 or loses its answers, at every phase."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import pytest

from shared.domain.task import TaskState
from shared.lifecycle import ExitCode
from shared.messaging.topology import work_queue
from tests.support.builders import MODEL
from tests.support.s3_faults import Outage, S3Faults
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.matrix import FaultSite

CLAIM: Final = "PUT claim-1.json"
ARTIFACT: Final = "PUT 0.png"
OUTCOME: Final = "PUT outcome.json"
# How a worker says that it has noticed, by the phase.
NOTICED: Final = {CLAIM: "delivery_failed", ARTIFACT: "store_retry", OUTCOME: "store_retry"}


@pytest.fixture
def store(fault_bench: FaultSite) -> Iterator[S3Faults]:
    faults = S3Faults(fault_bench.s3_endpoint)
    yield faults
    fault_bench.kill_all()
    faults.close()


def start(site: FaultSite, store: S3Faults, **settings: str) -> None:
    site.start(MODELS_DIR=str(site.card()), S3_ENDPOINT=store.endpoint, **settings)
    site.await_line("model_loaded")


def await_trouble(site: FaultSite, store: S3Faults, outage: Outage, phase: str) -> None:
    """Until the library's own retries are used up; where no answer comes, until the lease waits as well."""
    if outage is Outage.HANGS:
        until(lambda: len(store.hits) > 1, 60, "two requests that hang")
    else:
        site.await_line(NOTICED[phase], count=2)


@pytest.mark.parametrize("phase", [CLAIM, ARTIFACT, OUTCOME])
@pytest.mark.parametrize("outage", list(Outage))
def test_an_outage_of_the_store_costs_time_and_no_task(
    fault_bench: FaultSite, store: S3Faults, outage: Outage, phase: str
) -> None:
    start(fault_bench, store)
    store.begin(outage, phase)
    task = fault_bench.order()
    await_trouble(fault_bench, store, outage, phase)
    assert fault_bench.rabbit.depth(work_queue(MODEL)) <= 1
    store.end()
    outcome = fault_bench.outcome(task)
    assert outcome.state is TaskState.SUCCEEDED
    # A claim that was written unheard of is one that nobody answers for: its attempt is spent.
    assert outcome.attempt == (2 if (outage, phase) == (Outage.LOSES_ANSWERS, CLAIM) else 1)
    assert [artifact.key for artifact in outcome.artifacts] == fault_bench.artifacts(task)
    fault_bench.assert_well()
    fault_bench.await_rest()


def test_a_task_computes_on_through_an_outage(fault_bench: FaultSite, store: S3Faults) -> None:
    start(fault_bench, store)
    task = fault_bench.order("wait_for_go")
    fault_bench.await_line("task_started")
    store.begin(Outage.ANSWERS_500)
    fault_bench.await_line("vigil_failed")
    fault_bench.go(task)
    fault_bench.await_line("store_retry")
    store.end()
    outcome = fault_bench.outcome(task)
    assert (outcome.state, outcome.attempt) == (TaskState.SUCCEEDED, 1)
    assert len(fault_bench.lines("task_started")) == 1
    fault_bench.assert_well()


def test_a_worker_that_is_told_to_stop_in_an_outage_ends_in_time_and_loses_nothing(
    fault_bench: FaultSite, store: S3Faults
) -> None:
    start(fault_bench, store, DRAIN_SECONDS="1")
    store.begin(Outage.ANSWERS_500, ARTIFACT)
    task = fault_bench.order()
    fault_bench.await_line("store_retry")
    assert fault_bench.stop() == ExitCode.OK
    assert fault_bench.records.outcome(task.task_id) is None
    store.end()
    # The same worker again: its first lease says that nothing of before is in hand.
    fault_bench.start(MODELS_DIR=str(fault_bench.folder / "models"))
    outcome = fault_bench.outcome(task)
    assert (outcome.state, outcome.attempt) == (TaskState.SUCCEEDED, 2)
    fault_bench.assert_well()


def test_a_worker_without_its_store_does_not_start(fault_bench: FaultSite, store: S3Faults) -> None:
    store.begin(Outage.BREAKS)
    task = fault_bench.order()
    worker = fault_bench.start(MODELS_DIR=str(fault_bench.card()), S3_ENDPOINT=store.endpoint)
    assert worker.wait(60) == ExitCode.DEPENDENCY
    assert fault_bench.await_line("dependency_unavailable")["error.code"] == "storage_error"
    assert fault_bench.rabbit.depth(work_queue(MODEL)) == 1
    fault_bench.start("sound")
    assert fault_bench.outcome(task).attempt == 1
