"""The status API under gunicorn over PostgreSQL."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import psycopg
import pytest

from services.status.store.sql import open_store
from shared.clock import utc_now
from shared.contracts.event import queued_event
from tests.integration.test_status_api import StatusApi, new_task
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

    from tests.support.postgres import PostgresServer
    from tests.support.processes import ProcessGuard
    from tests.support.s3 import S3Server


@pytest.fixture
def url(postgres_server: PostgresServer) -> str:
    return postgres_server.create_database()


@pytest.fixture
def api(s3_server: S3Server, bucket: str, process_guard: ProcessGuard, tmp_path: Path, url: str) -> Iterator[StatusApi]:
    server = StatusApi(s3_server, bucket, process_guard, tmp_path)
    server.views.close()
    server.views = open_store(url)
    server.start(ATELIER_DATABASE_URL=url)
    yield server
    server.client.close()
    if server.process is not None:
        process_guard.stop(server.process)
    server.views.close()


def test_a_request_that_waits_for_the_database_keeps_no_other_waiting(api: StatusApi, url: str) -> None:
    task = new_task()
    api.views.apply_events([queued_event(task)], seen_until=utc_now())
    answers: list[httpx.Response] = []
    with psycopg.connect(url) as holder:
        holder.execute("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
        held_up = threading.Thread(target=lambda: answers.append(api.client.get(f"/api/v1/tasks/{task.task_id}")))
        held_up.start()
        with psycopg.connect(url, autocommit=True) as observer:
            waiting = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            until(lambda: observer.execute(waiting).fetchone(), 10, "a request that waits for the lock")
        assert api.client.get("/healthz").status_code == 200
        assert answers == [], "the other was answered while this one still waits"
    held_up.join()
    assert answers[0].status_code == 200


def test_while_the_database_is_away_it_says_so_and_it_comes_back(
    api: StatusApi, postgres_server: PostgresServer
) -> None:
    task = new_task()
    api.views.apply_events([queued_event(task)], seen_until=utc_now())
    postgres_server.kill()
    answer = api.client.get(f"/api/v1/tasks/{task.task_id}")
    assert (answer.status_code, answer.json()["code"]) == (503, "view_store_error")
    assert "password" not in (api.folder / "api.log").read_text()
    assert api.client.get("/readyz").status_code == 503
    postgres_server.start()
    until(lambda: api.client.get(f"/api/v1/tasks/{task.task_id}").status_code == 200, 20, "the answer")
