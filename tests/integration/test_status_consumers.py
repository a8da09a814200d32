"""Two status consumers on one queue and one database: what they make of the events is what one pass makes of them."""

from __future__ import annotations

import os
import random
import sys
import threading
import urllib.error
import urllib.request
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from services.status.applying import Kept, apply_all
from services.status.store.database import Database, open_database
from shared.clock import utc_now
from shared.contracts.event import (
    Progress,
    TaskEvent,
    ended_event,
    progress_event,
    queued_event,
    retrying_event,
    started_event,
)
from shared.contracts.outcome import ErrorInfo
from shared.domain.task import EventType, Phase
from shared.ids import new_task_id
from shared.messaging import messages
from shared.messaging.publisher import ThreadedPublisher
from shared.messaging.topology import STATUS_EVENTS, TASKS_DEAD
from tests.support.builders import make_outcome, make_task
from tests.support.ports import free_ports
from tests.support.s3 import ACCESS_KEY, SECRET_KEY
from tests.support.waiting import until
from tests.support.worker_process import CHECKOUT

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.postgres import PostgresServer
    from tests.support.processes import ProcessGuard
    from tests.support.rabbit import RabbitServer
    from tests.support.s3 import S3Server

TASKS = 400


class Pair:
    """Two consumer processes, and one who publishes."""

    def __init__(self, rabbit: RabbitServer, s3: S3Server, bucket: str, guard: ProcessGuard, folder: Path) -> None:
        self.rabbit = rabbit
        self.guard = guard
        self.folder = folder
        self.ports = free_ports(2)
        self.publisher = ThreadedPublisher(rabbit.url("gateway"), "test-gateway")
        self.publisher.start()
        self.environment = {
            "PATH": os.environ["PATH"],
            "ATELIER_AMQP_URL": rabbit.url("status"),
            "ATELIER_S3_ENDPOINT": s3.endpoint,
            "ATELIER_S3_BUCKET": bucket,
            "ATELIER_S3_ACCESS_KEY": ACCESS_KEY,
            "ATELIER_S3_SECRET_KEY": SECRET_KEY,
        }
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        self.broken = threading.Event()

    def start(self, number: int) -> None:
        environment = {**self.environment, "ATELIER_METRICS_PORT": str(self.ports[number])}
        command = [sys.executable, "-m", "services.status.consumer"]
        log = self.folder / f"consumer-{number}.log"
        self.processes[number] = self.guard.spawn(command, log=log, env=environment, cwd=CHECKOUT)

    def kill(self, number: int) -> None:
        self.guard.kill(self.processes.pop(number))

    def start_both(self) -> None:
        for number in (0, 1):
            self.start(number)
        until(lambda: self.ask(0, "readyz") and self.ask(1, "readyz"), 60, "two consumers")

    def ask(self, number: int, path: str) -> list[str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[number]}/{path}", timeout=5) as answer:
                return list(answer.read().decode().splitlines())
        except (urllib.error.URLError, ConnectionError):
            return []

    def applied(self, number: int) -> float:
        """How many events this process has applied since its start."""
        lines = self.ask(number, "metrics")
        return sum(float(line.split()[-1]) for line in lines if line.startswith("atelier_status_events_applied_total{"))

    def feed(self, events: list[TaskEvent]) -> threading.Thread:
        """Publish from a thread of its own, in pieces; the second half only after something was broken."""

        def publish() -> None:
            for begin in range(0, len(events), 100):
                if begin > len(events) / 2:
                    self.broken.wait(60)
                self.publisher.publish(*(messages.event(event) for event in events[begin : begin + 100]), timeout=30)

        thread = threading.Thread(target=publish)
        thread.start()
        return thread

    def close(self) -> None:
        for number in list(self.processes):
            self.kill(number)
        self.publisher.stop()


@pytest.fixture
def pair(
    rabbit: RabbitServer, s3_server: S3Server, bucket: str, process_guard: ProcessGuard, tmp_path: Path
) -> Iterator[Pair]:
    consumers = Pair(rabbit, s3_server, bucket, process_guard, tmp_path)
    yield consumers
    consumers.close()


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, pair: Pair, tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path}/status.db"
    if request.param == "postgres":
        url = request.getfixturevalue("postgres_server").create_database()
    pair.environment["ATELIER_DATABASE_URL"] = url
    with closing(open_database(url)) as opened:
        yield opened


@pytest.fixture
def postgres(pair: Pair, postgres_server: PostgresServer) -> Iterator[Database]:
    url = pair.environment["ATELIER_DATABASE_URL"] = postgres_server.create_database()
    with closing(open_database(url)) as opened:
        yield opened


def day() -> list[TaskEvent]:
    """The lives of many tasks, side by side; every third needs a second attempt."""
    chance = random.Random(5)  # noqa: S311 - not a secret
    lives = [iter(life(retried=number % 3 == 0)) for number in range(TASKS)]
    events = []
    while lives:
        chosen = chance.choice(lives)
        event = next(chosen, None)
        if event is None:
            lives.remove(chosen)
        else:
            events.append(event)
    return events


def life(*, retried: bool) -> list[TaskEvent]:
    task = make_task(task_id=new_task_id(), submitted_at=utc_now(), callback="https://client.example/hook")
    at = task.submitted_at
    news = Progress(phase=Phase.DENOISING, step=1, steps=4)
    events = [queued_event(task), started_event(task, worker="w1", execution="e1", at=at)]
    events.append(progress_event(task, news, sequence=2, at=at))
    if retried:
        task = task.model_copy(update={"attempt": 2})
        error = ErrorInfo(code="worker_lost", message="it is gone")
        events.append(retrying_event(task, error, delay_seconds=0, at=at))
        events.append(started_event(task, worker="w2", execution="e2", at=at))
        events.append(progress_event(task, news, sequence=2, at=at))
    return [*events, ended_event(make_outcome(task=task))]


def assert_as_one_pass_makes_it(database: Database, events: list[TaskEvent]) -> None:
    expected = apply_all(events, Kept())
    for task_id, view in expected.kept.views.items():
        assert database.views.get(task_id) == view
        attempts = [attempt for key, attempt in sorted(expected.kept.attempts.items()) if key[0] == task_id]
        assert database.views.attempts(task_id) == attempts
    news = database.news.after(0, 10 * len(events))
    assert [one.position for one in news] == list(range(1, len(news) + 1))
    ends = [one.news.task_id for one in news if one.news.type is EventType.SUCCEEDED]
    assert sorted(ends) == sorted(expected.kept.views)
    with database.engine.connect() as connection:
        owed = connection.exec_driver_sql("SELECT webhook_id FROM webhook_deliveries").scalars().all()
    assert sorted(owed) == sorted(notice.webhook_id for notice in expected.notices)


def test_one_of_two_is_killed_amid_the_events_and_comes_back(pair: Pair, database: Database) -> None:
    events = day()
    pair.start_both()
    feeder = pair.feed(events)
    until(lambda: pair.applied(0) > 0 and pair.applied(1) > 0, 60, "both to work")
    pair.kill(0)
    pair.broken.set()
    pair.start(0)
    feeder.join()
    await_the_ends(pair, database)
    assert_as_one_pass_makes_it(database, events)


def test_the_database_restarts_amid_the_events(pair: Pair, postgres: Database, postgres_server: PostgresServer) -> None:
    events = day()
    pair.start_both()
    feeder = pair.feed(events)
    until(lambda: pair.applied(0) + pair.applied(1) > 0, 60, "the first events to be applied")
    postgres_server.kill()
    pair.broken.set()
    until(lambda: any("view_store_failed" in log for log in logs(pair)), 30, "the outage to be noticed")
    postgres_server.start()
    feeder.join()
    await_the_ends(pair, postgres)
    assert_as_one_pass_makes_it(postgres, events)
    assert all(process.poll() is None for process in pair.processes.values())


def logs(pair: Pair) -> list[str]:
    return [(pair.folder / f"consumer-{number}.log").read_text() for number in (0, 1)]


def await_the_ends(pair: Pair, database: Database) -> None:
    until(lambda: ended(database) == TASKS and pair.rabbit.depth(STATUS_EVENTS) == 0, 60, "the end of every task")
    assert pair.rabbit.depth(TASKS_DEAD) == 0


def ended(database: Database) -> int:
    with database.engine.connect() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM tasks WHERE state = 'succeeded'").scalar_one())
