"""The database is lost while tasks flow, and made again from the bucket: the same answers, the same callbacks."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from services.status.api.answers import task_answer
from services.status.store.sql import open_store
from shared.clock import utc_now
from shared.contracts.event import ended_event
from shared.domain.task import TaskState
from shared.ids import first_task_id, new_task_id
from shared.lifecycle import ExitCode
from shared.messaging import messages
from shared.storage.records import JSON, outcome_key
from tests.support.builders import make_claim, make_outcome, make_task
from tests.support.status_site import SweptSite
from tests.support.waiting import until
from tests.support.worker_process import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shared.contracts.outcome import Outcome
    from shared.contracts.task import TaskMessage
    from tests.support.processes import ProcessGuard
    from tests.support.rabbit import RabbitServer
    from tests.support.s3 import S3Server

CALLBACK = "https://client.example/hook"


class RebuiltSite(SweptSite):
    """A status service whose database can be lost."""

    def lose_database(self) -> None:
        """The consumer dies, the file is gone, a consumer starts."""
        for program in self.programs:
            program.kill()
        self.views.close()
        path = Path(self.database_url.removeprefix("sqlite:///"))
        for file in path.parent.glob(f"{path.name}*"):
            file.unlink()
        self.programs = []
        self.consume("consumer-2")
        self.views = open_store(self.database_url)

    def rebuild(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """Run the command. Returns its exit status and its last line."""
        done = subprocess.run(
            [sys.executable, "-m", "services.status.rebuild", *arguments],
            env=self.environment,
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return done.returncode, json.loads((done.stdout + done.stderr).splitlines()[-1])

    def answer(self, task: TaskMessage) -> str:
        """What GET says of a task."""
        view = self.view(task)
        return task_answer(view, [artifact.key for artifact in view.artifacts], None).model_dump_json()

    def owed(self) -> set[str]:
        """The ids of callbacks that are owed."""
        with sqlite3.connect(self.database_url.removeprefix("sqlite:///")) as connection:
            return {row[0] for row in connection.execute("SELECT webhook_id FROM webhook_deliveries")}

    def end(self, task: TaskMessage, **changes: object) -> Outcome:
        """End a task as a worker does."""
        outcome = self.records.commit(make_outcome(task=task, **changes))
        self.publisher.publish(messages.event(ended_event(outcome)), timeout=10)
        return outcome


@pytest.fixture
def site(
    rabbit: RabbitServer, s3_server: S3Server, bucket: str, process_guard: ProcessGuard, tmp_path: Path
) -> Iterator[RebuiltSite]:
    site = RebuiltSite(rabbit, s3_server, bucket, process_guard, tmp_path)
    yield site
    site.close()


def test_a_database_that_is_lost_while_tasks_flow_comes_back_with_the_same_answers(site: RebuiltSite) -> None:
    site.start()
    ended = [site.accept(callback=CALLBACK) for _ in range(6)]
    failed = site.accept(callback=CALLBACK, attempt=3)
    for number in (1, 2):
        site.records.claim(make_claim(task_id=failed.task_id, attempt=number, at=utc_now()))
    site.end(failed, state=TaskState.FAILED)
    replay = site.accept(retry_of=failed.task_id)
    everything = [*ended, failed, replay]
    until(lambda: all(site.view(task).state.is_final for task in everything), 60, "every end")
    before = {task.task_id: site.answer(task) for task in everything}
    owed = site.owed()
    assert len(owed) == 7

    waiting = [site.accept(callback=CALLBACK, steps=20) for _ in range(3)]
    site.lose_database()
    flowing = [site.accept(callback=CALLBACK) for _ in range(6)]
    status, last = site.rebuild()
    assert (status, last["message"], last["unreadable"]) == (ExitCode.OK, "rebuild_ended", 0)
    assert {task.task_id: site.answer(task) for task in everything} == before
    assert owed <= site.owed()

    until(lambda: all(site.view(task).state.is_final for task in [*waiting, *flowing]), 60, "the others' ends")
    later = {task.task_id: site.answer(task) for task in [*everything, *waiting, *flowing]}
    assert site.rebuild()[0] == ExitCode.OK
    assert {task.task_id: site.answer(task) for task in [*everything, *waiting, *flowing]} == later
    assert len(site.owed()) == 7 + len(waiting) + len(flowing)


def test_old_ends_come_back_without_callbacks_and_what_cannot_be_read_is_told(site: RebuiltSite) -> None:
    long_ago = utc_now() - timedelta(days=2)
    old = make_task(
        task_id=first_task_id(long_ago.timestamp()), submitted_at=long_ago, callback=CALLBACK, callback_events=None
    )
    new = make_task(task_id=new_task_id(), submitted_at=utc_now() - timedelta(minutes=1), callback=CALLBACK)
    for task in (old, new):
        site.records.commit(make_outcome(task=task))
    site.store.put(outcome_key(new_task_id()), b"no outcome", media_type=JSON)
    status, last = site.rebuild()
    assert (status, last["tasks"], last["unreadable"]) == (ExitCode.INCOMPLETE, 2, 1)
    assert site.view(old).state is site.view(new).state is TaskState.SUCCEEDED
    assert [new.task_id.replace("-", "") in webhook_id for webhook_id in site.owed()] == [True]


def test_it_goes_on_where_it_is_told_to(site: RebuiltSite) -> None:
    tasks = [make_task(task_id=new_task_id(), submitted_at=utc_now()) for _ in range(3)]
    for task in tasks:
        site.records.commit(make_outcome(task=task))
    status, last = site.rebuild("--after", tasks[0].task_id)
    assert (status, last["tasks"], last["after_task"]) == (ExitCode.OK, 2, tasks[2].task_id)
    assert site.views.get(tasks[0].task_id) is None
