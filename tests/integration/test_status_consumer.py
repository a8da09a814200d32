from __future__ import annotations

import os
import sys
import threading
import urllib.error
import urllib.request
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from services.status.store.sql import SqlTaskViewStore, open_store
from shared.clock import utc_now
from shared.contracts.base import decode
from shared.contracts.dead import DeadLetter
from shared.contracts.event import Progress, TaskEvent, ended_event, progress_event, queued_event, started_event
from shared.domain.settle import ClaimMark
from shared.domain.task import Phase, TaskState
from shared.ids import new_task_id
from shared.lifecycle import ExitCode
from shared.messaging import messages
from shared.messaging.publisher import ThreadedPublisher
from shared.messaging.topology import (
    EVENTS,
    STATUS_EVENTS,
    STATUS_RETURNED,
    TASKS,
    TASKS_DEAD,
    retry_queue,
    work_queue,
)
from shared.storage.records import TaskRecords
from shared.storage.s3 import S3Store
from tests.support.builders import MODEL, make_artifact, make_claim, make_outcome, make_task, outbound
from tests.support.ports import free_port
from tests.support.s3 import ACCESS_KEY, SECRET_KEY
from tests.support.views import replayed
from tests.support.waiting import until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from services.status.view import TaskView
    from shared.contracts.task import TaskMessage
    from tests.support.processes import ProcessGuard
    from tests.support.rabbit import RabbitServer
    from tests.support.s3 import S3Server

WORK = work_queue(MODEL)


class StatusConsumer:
    """The real process over the real broker and store, and what a test needs beside it."""

    def __init__(self, rabbit: RabbitServer, s3: S3Server, bucket: str, guard: ProcessGuard, folder: Path) -> None:
        self.rabbit = rabbit
        self.guard = guard
        self.folder = folder
        self.port = free_port()
        self.database_url = f"sqlite:///{folder}/status.db"
        self.records = TaskRecords(S3Store(s3.settings(bucket)))
        self.publisher = ThreadedPublisher(rabbit.url("gateway"), "test-gateway")
        self.environment = {
            "PATH": os.environ["PATH"],
            "ATELIER_AMQP_URL": rabbit.url("status"),
            "ATELIER_DATABASE_URL": self.database_url,
            "ATELIER_METRICS_PORT": str(self.port),
            "ATELIER_S3_ENDPOINT": s3.endpoint,
            "ATELIER_S3_BUCKET": bucket,
            "ATELIER_S3_ACCESS_KEY": ACCESS_KEY,
            "ATELIER_S3_SECRET_KEY": SECRET_KEY,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "services.status.consumer"]
        self.process = self.guard.spawn(command, log=self.folder / "consumer.log", env=self.environment)
        until(self.ready, 30, f"the consumer (see {self.folder}/consumer.log)")
        return self.process

    def kill(self) -> None:
        if self.process is not None:
            self.guard.kill(self.process)
            self.process = None

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, ConnectionError):
            return False

    def metrics(self) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    def publish(self, *events: TaskEvent) -> None:
        self.publisher.publish(*(messages.event(event) for event in events), timeout=10)

    def take(self, queue: str, *, reject_as: str | None = None) -> tuple[bytes, dict[str, Any]]:
        """The body and headers of a queue's one message, acked, or rejected by a user of the broker."""
        with self.rabbit.connect(reject_as or "admin") as connection:
            channel = connection.channel()
            method, properties, body = channel.basic_get(queue)
            assert method is not None
            assert properties is not None
            if reject_as is not None:
                channel.basic_reject(method.delivery_tag or 0, requeue=False)
            else:
                channel.basic_ack(method.delivery_tag or 0)
            return body or b"", dict(properties.headers or {})

    def submit(self, task: TaskMessage) -> None:
        self.publisher.publish(messages.new_task(task, utc_now()), messages.event(queued_event(task)), timeout=10)


@pytest.fixture
def status(
    rabbit: RabbitServer, s3_server: S3Server, bucket: str, process_guard: ProcessGuard, tmp_path: Path
) -> Iterator[StatusConsumer]:
    consumer = StatusConsumer(rabbit, s3_server, bucket, process_guard, tmp_path)
    consumer.publisher.start()
    yield consumer
    consumer.kill()
    consumer.publisher.stop()


@pytest.fixture
def views(status: StatusConsumer) -> Iterator[SqlTaskViewStore]:
    store = open_store(status.database_url)
    yield store
    store.close()


def new_task(**changes: object) -> TaskMessage:
    return make_task(task_id=new_task_id(), submitted_at=utc_now(), **changes)


def life(task: TaskMessage) -> list[TaskEvent]:
    at = task.submitted_at
    steps = [
        progress_event(task, Progress(phase=Phase.DENOISING, step=step, steps=4), sequence=1 + step, at=at)
        for step in range(1, 5)
    ]
    outcome = make_outcome(task=task, artifacts=(make_artifact(key=f"tasks/{task.task_id}/1-e/0.png"),))
    return [queued_event(task), started_event(task, worker="w", execution="e", at=at), *steps, ended_event(outcome)]


def final_state(views: SqlTaskViewStore, task: TaskMessage, state: TaskState) -> TaskView:
    def found() -> TaskView | None:
        view = views.get(task.task_id)
        return view if view is not None and view.state is state else None

    view = until(found, 20, f"{task.task_id} to be {state}")
    assert view is not None
    return view


def test_events_become_views_and_a_corrupt_one_is_parked_alone(status: StatusConsumer, views: SqlTaskViewStore) -> None:
    tasks = [new_task() for _ in range(10)]
    lives = {task.task_id: life(task) for task in tasks}
    status.publish(*(event for task in tasks for event in lives[task.task_id][:3]))
    status.publisher.publish(outbound(EVENTS, "queued.acme", b"\xff not json"), timeout=10)
    status.publish(*(event for task in tasks for event in lives[task.task_id][3:]))
    status.start()
    for task in tasks:
        assert final_state(views, task, TaskState.SUCCEEDED) == replayed(lives[task.task_id])
    until(lambda: status.rabbit.depth(TASKS_DEAD) == 1)
    assert 'atelier_status_events_applied_total{type="succeeded"} 10.0' in status.metrics()
    assert 'atelier_status_parked_total{reason="undecodable"} 1.0' in status.metrics()
    body, headers = status.take(TASKS_DEAD)
    assert decode(DeadLetter, body).body == b"\xff not json"
    assert headers[messages.HEADER_REASON] == "undecodable"


def test_killed_again_and_again_it_loses_no_event(status: StatusConsumer, views: SqlTaskViewStore) -> None:
    tasks = [new_task() for _ in range(300)]
    lives = {task.task_id: life(task) for task in tasks}
    feeder = threading.Thread(target=status.publish, args=[event for task in tasks for event in lives[task.task_id]])
    feeder.start()
    for _ in range(3):
        status.start()
        status.kill()
    feeder.join()
    status.start()
    for task in tasks:
        assert final_state(views, task, TaskState.SUCCEEDED) == replayed(lives[task.task_id])
    until(lambda: status.rabbit.depth(STATUS_EVENTS) == 0)


def test_it_comes_back_after_the_broker_has_restarted(status: StatusConsumer, views: SqlTaskViewStore) -> None:
    before, after = new_task(), new_task()
    process = status.start()
    status.publish(*life(before))
    final_state(views, before, TaskState.SUCCEEDED)
    status.rabbit.restart()
    until(status.ready, 30, "the consumer to be connected again")
    status.publish(*life(after))
    final_state(views, after, TaskState.SUCCEEDED)
    assert process.poll() is None


def test_it_says_how_far_it_has_seen_even_when_nothing_happens(status: StatusConsumer, views: SqlTaskViewStore) -> None:
    status.start()
    asked_at = utc_now()
    until(lambda: (views.seen_until() or asked_at) > asked_at)


def test_told_to_stop_it_ends_in_order(status: StatusConsumer) -> None:
    process = status.start()
    process.terminate()
    assert process.wait(20) == ExitCode.OK
    assert '"message":"status_consumer_stopped"' in (status.folder / "consumer.log").read_text()


def test_without_a_database_folder_it_ends_with_the_code_for_settings(status: StatusConsumer) -> None:
    status.environment["ATELIER_DATABASE_URL"] = "sqlite:////no/such/folder/status.db"
    command = [sys.executable, "-m", "services.status.consumer"]
    process = status.guard.spawn(command, log=status.folder / "consumer.log", env=status.environment)
    assert process.wait(30) == ExitCode.CONFIGURATION
    assert "ATELIER_DATABASE_URL" in (status.folder / "consumer.log").read_text()


def test_a_task_that_nobody_took_in_time_expires(status: StatusConsumer, views: SqlTaskViewStore) -> None:
    soon = utc_now() + timedelta(seconds=1)
    task = new_task(start_deadline=soon, finish_deadline=soon)
    status.start()
    status.submit(task)
    view = final_state(views, task, TaskState.EXPIRED)
    assert view.error is not None
    assert view.error.code == "expired"
    outcome = status.records.outcome(task.task_id)
    assert outcome is not None
    assert outcome.state is TaskState.EXPIRED
    claim = status.records.find_claim(task.task_id, 1)
    assert claim is not None
    assert claim.mark is ClaimMark.EXPIRED
    until(lambda: status.rabbit.depth(STATUS_RETURNED) == 0)


def test_a_task_whose_worker_is_lost_gets_its_next_attempt_and_ends(
    status: StatusConsumer, views: SqlTaskViewStore
) -> None:
    soon = utc_now() + timedelta(seconds=1)
    task = new_task(start_deadline=soon, finish_deadline=soon)
    at = utc_now() - timedelta(minutes=5)
    status.records.claim(make_claim(task_id=task.task_id, at=at, run_budget_seconds=1))
    status.start()
    status.submit(task)
    # Attempt 2 is queued past the finish deadline, comes back at once, and ends there.
    view = final_state(views, task, TaskState.FAILED)
    assert view.error is not None
    assert (view.attempt, view.error.code) == (2, "deadline_exceeded")


def test_a_returned_task_that_runs_elsewhere_is_looked_at_again_later(status: StatusConsumer) -> None:
    soon = utc_now() + timedelta(seconds=1)
    task = new_task(start_deadline=soon, finish_deadline=soon)
    status.records.claim(make_claim(task_id=task.task_id, at=utc_now(), run_budget_seconds=600))
    status.start()
    status.submit(task)
    until(lambda: status.rabbit.depth(retry_queue(30)) == 1)
    assert status.records.outcome(task.task_id) is None


def test_what_a_worker_rejects_as_undecodable_is_parked_with_its_reason(status: StatusConsumer) -> None:
    status.publisher.publish(outbound(TASKS, MODEL, b'{"schema":1}'), timeout=10)
    status.start()
    assert status.take(WORK, reject_as="worker")[0] == b'{"schema":1}'
    until(lambda: status.rabbit.depth(TASKS_DEAD) == 1)
    body, headers = status.take(TASKS_DEAD)
    assert decode(DeadLetter, body).body == b'{"schema":1}'
    assert headers[messages.HEADER_REASON] == "undecodable"
    assert "task_id" in headers[messages.HEADER_DETAIL]
