"""A worker dies between any two neighbouring steps from delivery to ack; another one brings the task to its one end."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import pytest

from shared.domain.task import EventType, TaskState
from tests.support.waiting import until
from tests.support.worker_process import WorkerSite

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.processes import ProcessGuard
    from tests.support.rabbit import RabbitServer
    from tests.support.s3 import S3Server

# In their order. The number is the attempt that brings the end: deaths before the claim burn none, deaths between the
# claim and the outcome burn one, and after the outcome nothing is computed again.
POINTS: Final = {
    "before create claim-1.json": 1,
    "after create claim-1.json": 2,
    "before begin": 2,
    "after begin": 2,
    "after wait_computed": 2,
    "after wait_encoded": 2,
    "before put 0.png": 2,
    "after put 0.png": 2,
    "before create outcome.json": 2,
    "after create outcome.json": 1,
    "before publish atelier.events succeeded.*": 1,
    "after publish atelier.events succeeded.*": 1,
    "before ack": 1,
    "after ack": 1,
}


@pytest.fixture
def site(
    rabbit: RabbitServer, s3_server: S3Server, bucket: str, process_guard: ProcessGuard, tmp_path: Path
) -> Iterator[WorkerSite]:
    site = WorkerSite(rabbit, s3_server, bucket, process_guard, tmp_path)
    yield site
    site.close()


@pytest.mark.parametrize("point", list(POINTS))
def test_a_death_at_any_step_ends_in_one_success(site: WorkerSite, point: str) -> None:
    dying = site.start(FAULT_POINT=point)
    task = site.submit()
    assert dying.wait(60) == -9
    assert site.lines("fault_point_reached")
    site.start()
    outcome = site.outcome(task)
    site.await_rest()
    assert (outcome.state, outcome.attempt) == (TaskState.SUCCEEDED, POINTS[point])
    keys = set(site.store.keys(f"tasks/{task.task_id}/"))
    assert {artifact.key for artifact in outcome.artifacts} <= keys
    assert sum(key.endswith("outcome.json") for key in keys) == 1
    ended = [event for event in site.events() if event.type is EventType.SUCCEEDED]
    assert ended
    assert all(event.data.outcome == outcome for event in ended)
    until(lambda: not pictures(site.folder / "work"), 30, "the sandboxes' end")
    assert site.dead() == 0


def pictures(folder: Path) -> list[str]:
    # Unlike Path.rglob this bears folders that are removed meanwhile.
    return [name for _, _, names in os.walk(folder) for name in names if name.endswith(".png")]


def test_a_message_that_kills_its_worker_every_time_is_parked_and_stops_killing(site: WorkerSite) -> None:
    task = site.submit()
    for _ in range(3):
        assert site.start(FAULT_POINT="after begin").wait(60) == -9
    last = site.start(FAULT_POINT="after begin")
    outcome = site.outcome(task)
    site.await_rest()
    assert last.poll() is None
    assert outcome.state is TaskState.FAILED
    assert outcome.error is not None
    assert outcome.error.code == "attempts_exhausted"
    assert site.dead() == 1
