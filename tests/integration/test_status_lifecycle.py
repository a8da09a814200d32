"""Artifacts go from a real bucket when their plan's time is over, by the command and by the sweeper."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from services.status.lifecycle.keep_times import read_keep_times
from services.status.lifecycle.rounds import Lifecycle
from shared.auth.store.memory import MemoryTenantStore
from shared.clock import utc_now
from shared.domain.keeping import LEADS_KEPT_FOR
from shared.ids import first_task_id, new_task_id
from shared.lifecycle import ExitCode
from shared.storage.records import JSON, TaskRecords, outcome_key
from shared.storage.s3 import S3Store
from shared.storage.work_index import WorkIndex
from tests.support.builders import TENANT, make_artifact, make_claim, make_outcome, make_task
from tests.support.s3 import ACCESS_KEY, SECRET_KEY
from tests.support.status_site import SweptSite
from tests.support.tenants import PLANS, tenant_environment
from tests.support.waiting import until
from tests.support.worker_process import CHECKOUT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from shared.contracts.task import TaskMessage
    from tests.support.processes import ProcessGuard
    from tests.support.rabbit import RabbitServer
    from tests.support.s3 import S3Server

KEY = f"tenant/{TENANT}/{'a' * 64}"


class Site:
    """A bucket, and the command over it with the plans of the repository."""

    def __init__(self, s3: S3Server, bucket: str, folder: Path) -> None:
        self.store = S3Store(s3.settings(bucket))
        self.records = TaskRecords(self.store)
        tenants, _ = tenant_environment(folder, TENANT)
        self.environment = {
            "PATH": os.environ["PATH"],
            "ATELIER_S3_ENDPOINT": s3.endpoint,
            "ATELIER_S3_BUCKET": bucket,
            "ATELIER_S3_ACCESS_KEY": ACCESS_KEY,
            "ATELIER_S3_SECRET_KEY": SECRET_KEY,
            **{name: tenants[name] for name in ("ATELIER_TENANTS_URL", "ATELIER_PLANS_FILE")},
        }

    def run(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """The command's exit status and its last line."""
        done = subprocess.run(
            [sys.executable, "-m", "services.status.lifecycle", *arguments],
            env=self.environment,
            cwd=CHECKOUT,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return done.returncode, json.loads((done.stdout + done.stderr).splitlines()[-1])

    def ended(self, days: float, **changes: object) -> TaskMessage:
        """A task that ended so many days ago."""
        at = utc_now() - timedelta(days=days)
        task = make_task(**{"task_id": first_task_id(at.timestamp()), "submitted_at": at, **changes})
        self.records.claim(make_claim(task_id=task.task_id))
        key = f"tasks/{task.task_id}/1-x/0.png"
        self.store.put(key, b"x", media_type="image/png")
        self.records.commit(make_outcome(task=task, artifacts=(make_artifact(key=key),)))
        return task

    def left(self, task: TaskMessage) -> list[str]:
        return list(self.store.keys(f"tasks/{task.task_id}/"))


@pytest.fixture
def site(s3_server: S3Server, bucket: str, tmp_path: Path) -> Site:
    return Site(s3_server, bucket, tmp_path)


def test_the_command_deletes_what_is_over_and_leaves_the_rest(site: Site) -> None:
    over = [site.ended(31), site.ended(30.5), site.ended(39, cache_key=KEY)]
    kept = [site.ended(29), site.ended(31.5, cache_key=KEY), site.ended(8), site.ended(0)]
    status, last = site.run("--dry-run")
    assert (status, last["message"], last["tasks"]) == (ExitCode.OK, "lifecycle_round_ended", 3)
    assert {len(site.left(task)) for task in (*over, *kept)} == {3}
    status, last = site.run()
    assert (status, last["tasks"], last["objects"], last["unreadable"]) == (ExitCode.OK, 3, 6, 0)
    assert [site.left(task) for task in over] == [[outcome_key(task.task_id)] for task in over]
    assert {len(site.left(task)) for task in kept} == {3}
    assert site.run()[1]["tasks"] == 0


def test_a_result_that_may_soon_go_is_given_to_nobody(site: Site) -> None:
    index = WorkIndex(site.records)
    old = site.ended(8, cache_key=KEY)
    index.lead(KEY, old.task_id, utc_now())
    assert index.find(KEY) is None
    assert index.lead(KEY, new_task_id(), utc_now()) is None


def test_old_leads_and_leases_go(site: Site) -> None:
    WorkIndex(site.records).lead(KEY, new_task_id(), utc_now())
    site.store.put("workers/worker-1.json", b"{}", media_type=JSON)
    times = read_keep_times(MemoryTenantStore(), PLANS)
    lifecycle = Lifecycle(records=site.records, read_times=lambda: times)
    assert not lifecycle.run(utc_now(), 10)
    assert lifecycle.tally.others == 0
    assert not lifecycle.run(utc_now() + LEADS_KEPT_FOR, 10)
    assert list(site.store.keys("")) == []


def test_a_command_that_cannot_read_an_outcome_says_so(site: Site) -> None:
    task = site.ended(31)
    site.store.put(outcome_key(task.task_id), b"no outcome", media_type=JSON)
    status, last = site.run()
    assert (status, last["unreadable"], len(site.left(task))) == (ExitCode.INCOMPLETE, 1, 3)


@pytest.fixture
def swept(
    rabbit: RabbitServer, s3_server: S3Server, bucket: str, process_guard: ProcessGuard, tmp_path: Path
) -> Iterator[SweptSite]:
    swept = SweptSite(rabbit, s3_server, bucket, process_guard, tmp_path)
    yield swept
    swept.close()


def test_the_sweeper_does_it_by_itself(swept: SweptSite, s3_server: S3Server, tmp_path: Path) -> None:
    (tmp_path / "beside").mkdir()
    site = Site(s3_server, swept.bucket, tmp_path / "beside")
    over, kept = [site.ended(100 + number) for number in range(30)], site.ended(1)
    swept.sweep()
    until(lambda: all(len(site.left(task)) == 1 for task in over), 30, "the deletions")
    assert len(site.left(kept)) == 3
