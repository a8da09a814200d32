"""The retention command over the real bucket and both databases."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING

import orjson
import pytest

from services.status.lookup import TaskFinder
from services.status.store.database import open_database
from shared.clock import utc_now
from shared.contracts.event import ended_event, queued_event
from shared.ids import first_task_id, new_task_id
from shared.lifecycle import ExitCode
from shared.storage.records import TaskRecords
from shared.storage.s3 import S3Store
from tests.support.builders import TENANT, make_outcome, make_task
from tests.support.polling import PollingWaiter
from tests.support.s3 import ACCESS_KEY, SECRET_KEY
from tests.support.worker_process import CHECKOUT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.s3 import S3Server


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/status.db"
    return str(request.getfixturevalue("postgres_server").create_database())


def run_retention(url: str, s3: S3Server, bucket: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": os.environ["PATH"],
        "ATELIER_DATABASE_URL": url,
        "ATELIER_S3_ENDPOINT": s3.endpoint,
        "ATELIER_S3_BUCKET": bucket,
        "ATELIER_S3_ACCESS_KEY": ACCESS_KEY,
        "ATELIER_S3_SECRET_KEY": SECRET_KEY,
    }
    command = [sys.executable, "-m", "services.status.retention"]
    return subprocess.run(
        command, env=environment, cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=False
    )


def test_tasks_of_long_ago_move_to_the_bucket_and_are_still_answered(
    url: str, s3_server: S3Server, bucket: str
) -> None:
    objects = S3Store(s3_server.settings(bucket))
    records = TaskRecords(objects)
    long_ago = utc_now() - timedelta(days=40)
    with closing(open_database(url)) as database:
        old = [
            make_task(task_id=first_task_id((long_ago + timedelta(seconds=n)).timestamp()), submitted_at=long_ago)
            for n in range(3)
        ]
        young = make_task(task_id=new_task_id(), submitted_at=utc_now())
        for task in (*old, young):
            outcome = records.commit(make_outcome(task=task))
            database.views.apply_events([queued_event(task), ended_event(outcome)], seen_until=utc_now())
        before = database.views.get(old[0].task_id)
        done = run_retention(url, s3_server, bucket)
        assert done.returncode == ExitCode.OK, done.stdout
        assert [database.views.get(task.task_id) for task in old] == [None, None, None]
        assert database.views.get(young.task_id) is not None
        assert [one.news.task_id for one in database.news.after(0, 10)] == [young.task_id] * 2
        [key] = objects.keys("archive/")
        lines = [orjson.loads(line) for line in gzip.decompress(objects.get(key)).splitlines()]
        assert [line["task_id"] for line in lines] == [task.task_id for task in old]
        waiter = PollingWaiter(database.views, clock=lambda: 0.0, sleep=lambda _: None)
        finder = TaskFinder(store=database.views, waiter=waiter, records=records, clock=utc_now)
        found = finder.find(old[0].task_id, TENANT)
        assert before is not None
        assert (found.state, found.artifacts, found.ended_at) == (before.state, before.artifacts, before.ended_at)
        assert run_retention(url, s3_server, bucket).returncode == ExitCode.OK
        assert len(list(objects.keys("archive/"))) == 1


def test_without_its_database_it_ends_with_the_code_for_dependencies(s3_server: S3Server, bucket: str) -> None:
    done = run_retention("postgresql://user:sesame@127.0.0.1:1/status", s3_server, bucket)
    assert done.returncode == ExitCode.DEPENDENCY
    assert "sesame" not in done.stdout + done.stderr
