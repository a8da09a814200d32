"""What the real broker, workers and consumers lose comes back, and runs once."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from time import sleep
from typing import TYPE_CHECKING

import pytest

from shared.clock import utc_now
from shared.contracts.event import retrying_event
from shared.contracts.outcome import ErrorInfo
from shared.domain.task import TaskState
from shared.messaging import messages
from shared.messaging.topology import STATUS_EVENTS, retry_queue, work_queue
from tests.support.builders import MODEL
from tests.support.status_site import SweptSite
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from shared.contracts.task import TaskMessage
    from tests.support.processes import ProcessGuard
    from tests.support.rabbit import RabbitServer
    from tests.support.s3 import S3Server

WORK = work_queue(MODEL)
SOON = "1"


@pytest.fixture
def site(
    rabbit: RabbitServer, s3_server: S3Server, bucket: str, process_guard: ProcessGuard, tmp_path: Path
) -> Iterator[SweptSite]:
    site = SweptSite(rabbit, s3_server, bucket, process_guard, tmp_path)
    yield site
    site.close()


def empty(site: SweptSite, queue: str) -> None:
    with site.rabbit.connect() as connection:
        connection.channel().queue_purge(queue)


def assert_all_run_once(site: SweptSite, tasks: list[TaskMessage]) -> None:
    for task in tasks:
        site.await_state(task, TaskState.SUCCEEDED)
    site.await_rest()
    assert Counter(site.started()) == {task.task_id: 1 for task in tasks}
    assert site.dead() == 0


def test_tasks_whose_queue_lost_them_come_back_and_run_once(site: SweptSite) -> None:
    tasks = [site.accept() for _ in range(5)]
    for task in tasks:
        site.view(task)
    empty(site, WORK)
    sleep(float(SOON))  # all are silent at the sweeper's first look: copies of some would hide that others are lost
    site.sweep(SWEEP_SILENT_SECONDS=SOON)
    until(lambda: site.rabbit.depth(WORK) == len(tasks), 30, "the copies")
    site.start()
    assert_all_run_once(site, tasks)


def test_after_a_broker_that_lost_its_disk_what_the_view_knows_comes_back(site: SweptSite) -> None:
    tasks = [site.accept() for _ in range(3)]
    for task in tasks:
        site.view(task)
    site.sweep(SWEEP_SILENT_SECONDS=SOON)
    site.rabbit.lose_everything()
    until(lambda: site.rabbit.depth(WORK) == len(tasks), 60, "the copies")
    site.start()
    assert_all_run_once(site, tasks)


def test_a_retry_whose_queue_lost_it_comes_back_with_its_attempt(site: SweptSite) -> None:
    task = site.accept()
    site.view(task)
    empty(site, WORK)
    following = task.model_copy(update={"attempt": 2})
    error = ErrorInfo(code="backend_error", message="the model raised")
    news = retrying_event(following, error, delay_seconds=5, at=utc_now())
    site.publisher.publish(messages.event(news), timeout=10)
    assert site.rabbit.depth(retry_queue(5)) == 0, "as if it had been lost there"
    site.await_state(task, TaskState.RETRYING)
    site.sweep(SWEEP_SILENT_SECONDS=SOON)
    site.start()
    assert_all_run_once(site, [task])
    assert site.outcome(task).attempt == 2


def test_an_end_whose_event_was_lost_is_found_in_the_bucket(site: SweptSite) -> None:
    task = site.accept()
    site.view(task)
    site.programs[0].kill()
    site.start()
    site.outcome(task)
    site.await_rest()
    empty(site, STATUS_EVENTS)
    site.consume("consumer-2")
    assert site.view(task).state is TaskState.QUEUED
    site.sweep(SWEEP_SILENT_SECONDS=SOON)
    site.await_state(task, TaskState.SUCCEEDED)
    assert site.started() == [task.task_id]


def test_while_workers_start_and_queues_lose_each_task_runs_once(site: SweptSite) -> None:
    site.sweep(SWEEP_SILENT_SECONDS=SOON)
    site.start()
    site.await_line("model_loaded")
    tasks: list[TaskMessage] = []
    for _ in range(4):
        tasks += [site.accept(steps=6) for _ in range(5)]
        for task in tasks[-5:]:
            site.view(task)
        empty(site, WORK)
    assert_all_run_once(site, tasks)


def test_of_a_dead_worker_whose_message_is_lost_the_next_attempt_runs(site: SweptSite) -> None:
    task = site.accept(steps=400)
    site.start()
    site.await_line("task_started")
    site.await_state(task, TaskState.RUNNING)
    site.kill()
    until(lambda: site.rabbit.depth(WORK) == 1, 30, "the message to come back")
    empty(site, WORK)
    site.sweep(SWEEP_SILENT_SECONDS=SOON)
    until(lambda: site.rabbit.depth(WORK) >= 1, 60, "the next attempt")
    site.start("worker-2")
    until(lambda: site.view(task).attempt == 2, 60, "the second attempt")
    site.kill("worker-2")


def test_a_task_of_a_dead_worker_ends_at_its_finish_deadline(site: SweptSite) -> None:
    task = site.accept(steps=400, finish_deadline=utc_now() + timedelta(seconds=15))
    site.start()
    site.await_line("task_started")
    site.kill()
    until(lambda: site.rabbit.depth(WORK) == 1, 30, "the message to come back")
    empty(site, WORK)
    site.sweep(SWEEP_SILENT_SECONDS="4")
    site.await_state(task, TaskState.FAILED)
    error = site.outcome(task).error
    assert error is not None
    assert error.code == "deadline_exceeded"
