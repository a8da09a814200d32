"""The real sweeper and consumer over the real broker, bucket and database, with real workers where tasks are to run."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from services.status.errors import ViewStoreError
from services.status.store.engine import open_engine
from services.status.store.work_sql import SqlWorkStore
from services.status.sweeper.lifting import LiftingDuty
from services.status.sweeper.loop import LEASE
from services.status.sweeper.metrics import SweeperMetrics
from shared.clock import utc_now
from shared.domain.settle import ClaimMark
from shared.domain.task import TaskState
from shared.lifecycle import ExitCode
from shared.messaging.publisher import ThreadedPublisher
from shared.messaging.topology import work_queue
from tests.support.builders import MODEL
from tests.support.status_site import SweptSite
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    from shared.contracts.task import TaskMessage
    from tests.support.processes import ProcessGuard
    from tests.support.rabbit import RabbitServer
    from tests.support.s3 import S3Server

WORK = work_queue(MODEL)
SAID = ("claim_contested", "task_started", "task_settled")


@pytest.fixture
def site(
    rabbit: RabbitServer, s3_server: S3Server, bucket: str, process_guard: ProcessGuard, tmp_path: Path
) -> Iterator[SweptSite]:
    site = SweptSite(rabbit, s3_server, bucket, process_guard, tmp_path)
    yield site
    site.close()


def test_a_task_at_the_lowest_level_expires_in_time_and_never_runs(site: SweptSite) -> None:
    others = [site.accept(priority=8) for _ in range(3)]
    task = site.accept(priority=0, start_deadline=utc_now() + timedelta(seconds=1))
    site.sweep()
    site.await_state(task, TaskState.EXPIRED)
    assert site.rabbit.depth(WORK) == 4, "the broker still holds its message"
    claim = site.records.find_claim(task.task_id, 1)
    assert claim is not None
    assert claim.mark is ClaimMark.EXPIRED
    before = site.outcome(task)
    site.start()
    for other in others:
        site.await_state(other, TaskState.SUCCEEDED)
    site.await_rest()
    assert site.started() == [other.task_id for other in others]
    assert site.outcome(task) == before


def test_whoever_is_first_at_the_deadline_each_task_has_one_end(site: SweptSite) -> None:
    site.sweep()
    site.start()
    site.await_line("model_loaded")
    deadline = utc_now() + timedelta(seconds=2)
    tasks = [site.accept(start_deadline=deadline, steps=3) for _ in range(30)]
    until(lambda: all(site.view(task).state.is_final for task in tasks), 60, "every end")
    site.await_rest()
    ends = {task.task_id: site.outcome(task) for task in tasks}
    ran = {task_id for task_id, end in ends.items() if end.state is TaskState.SUCCEEDED}
    assert set(site.started()) == ran
    assert len(site.started()) == len(ran)
    assert {end.state for end in ends.values()} == {TaskState.SUCCEEDED, TaskState.EXPIRED}
    assert all(site.view(task).state is ends[task.task_id].state for task in tasks)


def lifted(site: SweptSite, task: TaskMessage) -> None:
    until(lambda: site.view(task).priority == 8, 20, "the lift")


def assert_all_run_once(site: SweptSite, tasks: list[TaskMessage]) -> None:
    for task in tasks:
        site.await_state(task, TaskState.SUCCEEDED)
    site.await_rest()
    assert Counter(site.started()) == {task.task_id: 1 for task in tasks}
    assert {site.outcome(task).attempt for task in tasks} == {1}
    assert site.dead() == 0


def test_a_lifted_task_goes_before_later_ones_of_a_higher_level_and_runs_once(site: SweptSite) -> None:
    early = [site.accept(tenant_id="flood", priority=7) for _ in range(4)]
    task = site.accept(tenant_id="light", priority=0)
    site.sweep()
    lifted(site, task)
    later = [site.accept(tenant_id="flood", priority=7) for _ in range(4)]
    site.start()
    assert_all_run_once(site, [*early, task, *later])
    order = site.started()
    assert order.index(task.task_id) <= 1, "behind the other tenant's turn at most"
    copies = [line for line in site.lines("task_settled") if line["task_id"] == task.task_id]
    assert len(copies) == 2, "the copy was met, and acked for the outcome"


def test_a_copy_that_is_met_while_its_task_runs_waits_and_starts_nothing(site: SweptSite) -> None:
    other = site.accept(tenant_id="other", priority=8)
    task = site.accept(tenant_id="light", priority=0, steps=120)
    site.sweep()
    lifted(site, task)
    names = ("worker-1", "worker-2")
    for name in names:
        site.start(name)
    site.await_state(task, TaskState.SUCCEEDED)
    site.await_state(other, TaskState.SUCCEEDED)
    site.await_rest()
    told = {message: [line for name in names for line in site.lines(message, name)] for message in SAID}
    assert {line["decision"] for line in told["claim_contested"]} == {"wait_for_copy"}
    assert sorted(line["task_id"] for line in told["task_started"]) == sorted([other.task_id, task.task_id])
    assert {line["outcome_attempt"] for line in told["task_settled"]} == {1}
    assert len(told["task_settled"]) == 3


class DyingStore(SqlWorkStore):
    """The database of a process that dies when it has published and not noted it."""

    def raise_level(self, task_id: str, attempt: int, level: int, at: datetime) -> None:
        message = f"died before {level} was noted of {task_id}:{attempt} at {at}"
        raise ViewStoreError(message)


def test_a_sweeper_that_dies_within_a_lift_lifts_again_and_the_task_runs_once(site: SweptSite) -> None:
    other, task = site.accept(tenant_id="other", priority=8), site.accept(tenant_id="light", priority=0)
    for each in (other, task):
        site.view(each)
    publisher = ThreadedPublisher(site.rabbit.url("status"), "test-sweeper")
    publisher.start()
    store = DyingStore(open_engine(site.database_url))
    dying = LiftingDuty(
        work=store,
        publisher=publisher,
        metrics=SweeperMetrics(),
        clock=utc_now,
        interval_seconds=0.2,
        weight_of=lambda _: None,
    )
    dying.begin()
    with pytest.raises(ViewStoreError, match=task.task_id):
        dying.run(10, lambda: True)
    publisher.stop()
    store.close()
    until(lambda: site.rabbit.depth(WORK) == 3, 10, "the copy")
    assert site.view(task).priority == 0
    site.sweep()
    lifted(site, task)
    assert site.rabbit.depth(WORK) == 4
    site.start()
    assert_all_run_once(site, [other, task])


def test_of_two_sweepers_one_acts_and_the_other_takes_over_from_a_dead_one(site: SweptSite) -> None:
    first = site.sweep("sweeper-1")
    until(first.acts, 20, "the first to act")
    second = site.sweep("sweeper-2")
    assert not second.acts()
    first.kill()
    task = site.accept(start_deadline=utc_now())
    until(second.acts, 30, "the second to act")
    site.await_state(task, TaskState.EXPIRED)


def test_told_to_stop_it_ends_in_order_and_leaves_its_place(site: SweptSite) -> None:
    first = site.sweep("sweeper-1")
    until(first.acts, 20, "the first to act")
    first.process.terminate()
    assert first.process.wait(20) == ExitCode.OK
    store = SqlWorkStore(open_engine(site.database_url))
    assert store.take_lease(LEASE, "another", utc_now(), 1), "it was given back and need not run out"
    store.close()
