"""Mixed tasks over several workers while parents, children and connections die at random: each ends once, rightly."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Final

import pytest

from tests.chaos.crew import EXPECTED_EXITS, Crew, await_idle
from tests.chaos.mixture import PATIENT_WEIGHTS, WEIGHTS
from tests.chaos.storm import Storm, Weather, say
from tests.chaos.verdict import (
    Bucket,
    Witness,
    assert_one_right_end,
    assert_told_once,
    assert_view_agrees,
    burnt_for_nothing,
    ended,
    figures,
    unexplained,
)
from tests.support.s3 import ACCESS_KEY, SECRET_KEY
from tests.support.waiting import until
from tests.support.worker_process import CHECKOUT, WorkerSite

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.processes import ProcessGuard
    from tests.support.rabbit import RabbitServer
    from tests.support.s3 import S3Server

# A copy waits 30 s for its twin, and a third failure 120 s for its next attempt.
SETTLE_SECONDS: Final = 300
SHORT: Final = Weather(tasks=60, seconds=15, gap_seconds=(0.2, 0.8), weights=WEIGHTS, seed=20261203)
LONG: Final = Weather(tasks=300, seconds=180, gap_seconds=(0.4, 3.0), weights=PATIENT_WEIGHTS, seed=20261204)


@pytest.fixture
def rabbit(request: pytest.FixtureRequest) -> RabbitServer:
    """The broker; that of the image with quorum queues where a test asks for it."""
    broker: RabbitServer = request.getfixturevalue(getattr(request, "param", "classic_rabbit"))
    broker.purge()
    return broker


@pytest.fixture
def site(
    rabbit: RabbitServer, s3_server: S3Server, bucket: str, process_guard: ProcessGuard, tmp_path: Path
) -> Iterator[WorkerSite]:
    site = WorkerSite(rabbit, s3_server, bucket, process_guard, tmp_path)
    yield site
    site.close()


@pytest.fixture
def database_url(
    rabbit: RabbitServer, s3_server: S3Server, bucket: str, process_guard: ProcessGuard, tmp_path: Path
) -> Iterator[str]:
    """The view that a real status consumer keeps."""
    url = f"sqlite:///{tmp_path}/status.db"
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(CHECKOUT),
        "ATELIER_AMQP_URL": rabbit.url("status"),
        "ATELIER_QUEUE_TYPE": rabbit.queue_type,
        "ATELIER_DATABASE_URL": url,
        "ATELIER_S3_ENDPOINT": s3_server.endpoint,
        "ATELIER_S3_BUCKET": bucket,
        "ATELIER_S3_ACCESS_KEY": ACCESS_KEY,
        "ATELIER_S3_SECRET_KEY": SECRET_KEY,
    }
    command = [sys.executable, "-m", "services.status.consumer"]
    process = process_guard.spawn(command, log=tmp_path / "status.log", env=environment, cwd=CHECKOUT)
    yield url
    process_guard.kill(process)


@pytest.fixture
def crew(site: WorkerSite, rabbit: RabbitServer, s3_server: S3Server) -> Iterator[Crew]:
    crew = Crew(site, rabbit, s3_server, 3)
    yield crew
    crew.close()


@pytest.mark.parametrize(
    ("rabbit", "weather"),
    [
        pytest.param("classic_rabbit", SHORT, id="short"),
        pytest.param("quorum_rabbit", SHORT, id="short-quorum", marks=pytest.mark.timeout(600)),
        pytest.param("classic_rabbit", LONG, id="long", marks=[pytest.mark.faults, pytest.mark.timeout(900)]),
        pytest.param("quorum_rabbit", LONG, id="long-quorum", marks=[pytest.mark.faults, pytest.mark.timeout(900)]),
    ],
    indirect=["rabbit"],
)
def test_a_storm_of_faults_loses_nothing_and_ends_nothing_twice(
    site: WorkerSite, crew: Crew, s3_server: S3Server, database_url: str, weather: Weather
) -> None:
    witness = Witness(site.rabbit)
    crew.start()
    storm = Storm(site, crew, s3_server, weather)
    storm.rage()
    settle(site, crew, weather.tasks)
    bucket = Bucket(site)
    events = witness.close()
    lost, others = unexplained(crew, bucket)
    say(**figures(site, crew, storm.diary, bucket, events), left_by_killed_workers=len(lost))
    assert_one_right_end(site, storm.diary, bucket)
    assert_told_once(events, bucket)
    assert_view_agrees(database_url, bucket, crew.keep, SETTLE_SECONDS)
    assert others == set()
    assert burnt_for_nothing(site, crew, bucket) == set()
    assert site.dead() == 0
    crew.stop()
    assert crew.leftovers() == []
    assert set(crew.exits) <= EXPECTED_EXITS


def settle(site: WorkerSite, crew: Crew, tasks: int) -> None:
    """Wait until every task has ended, no queue holds anything, and every sandbox is gone."""

    def all_ended() -> bool:
        crew.keep()
        return len(ended(site)) >= tasks

    until(all_ended, SETTLE_SECONDS, f"the ends of {tasks} tasks")
    site.await_rest(SETTLE_SECONDS)
    await_idle(crew, SETTLE_SECONDS)
