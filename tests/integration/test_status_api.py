from __future__ import annotations

import hashlib
import json
import os
import sys
import threading
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from services.status.store.sql import SqlTaskViewStore, open_store
from shared.clock import utc_now
from shared.contracts.event import ended_event, queued_event
from shared.ids import new_task_id
from shared.lifecycle import ExitCode
from shared.storage.s3 import S3Store
from tests.support.builders import TENANT, make_artifact, make_outcome, make_task
from tests.support.ports import free_port
from tests.support.s3 import ACCESS_KEY, SECRET_KEY
from tests.support.tenants import tenant_environment
from tests.support.waiting import until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from shared.contracts.task import TaskMessage
    from tests.support.processes import ProcessGuard
    from tests.support.s3 import S3Server

PICTURE = os.urandom(3 * 1024 * 1024 + 17)


class StatusApi:
    """Gunicorn with the application, its database, its bucket, and a client with a key."""

    def __init__(self, s3: S3Server, bucket: str, guard: ProcessGuard, folder: Path) -> None:
        self.guard = guard
        self.folder = folder
        self.port = free_port()
        self.objects = S3Store(s3.settings(bucket))
        self.database_url = f"sqlite:///{folder}/status.db"
        self.views = open_store(self.database_url)
        tenants, (key,) = tenant_environment(folder, TENANT)
        self.environment = {
            "PATH": os.environ["PATH"],
            "ATELIER_DATABASE_URL": self.database_url,
            # There is no broker: everything here goes on without one.
            "ATELIER_AMQP_URL": f"amqp://status:secret@127.0.0.1:{free_port()}/atelier",
            **tenants,
            "ATELIER_S3_ENDPOINT": s3.endpoint,
            "ATELIER_S3_BUCKET": bucket,
            "ATELIER_S3_ACCESS_KEY": ACCESS_KEY,
            "ATELIER_S3_SECRET_KEY": SECRET_KEY,
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", headers={"X-API-Key": key}, timeout=30, trust_env=False
        )

    def spawn(self, **changes: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "gunicorn", "--config", "services/status/gunicorn_conf.py"]
        command += ["--bind", f"127.0.0.1:{self.port}", "services.status.wsgi:build()"]
        self.process = self.guard.spawn(command, log=self.folder / "api.log", env=self.environment | changes)
        return self.process

    def start(self, **changes: str) -> None:
        self.spawn(**changes)
        until(self.ready, 30, f"the status API (see {self.folder}/api.log)")

    def ready(self) -> bool:
        try:
            return self.client.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def logged(self, message: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in (self.folder / "api.log").read_text().splitlines()]
        return [line for line in lines if line["message"] == message]


@pytest.fixture
def api(s3_server: S3Server, bucket: str, process_guard: ProcessGuard, tmp_path: Path) -> Iterator[StatusApi]:
    server = StatusApi(s3_server, bucket, process_guard, tmp_path)
    yield server
    server.client.close()
    if server.process is not None:
        process_guard.stop(server.process)
    server.views.close()


def succeed(views: SqlTaskViewStore, task: TaskMessage, *, picture: bytes) -> str:
    """The task has one picture; the key is where it should lie."""
    key = f"tasks/{task.task_id}/1-e/0.png"
    artifact = make_artifact(key=key, bytes=len(picture), sha256=hashlib.sha256(picture).hexdigest())
    views.apply_events([ended_event(make_outcome(task=task, artifacts=(artifact,)))], seen_until=utc_now())
    return key


def new_task() -> TaskMessage:
    return make_task(task_id=new_task_id(), submitted_at=utc_now())


def test_a_picture_is_streamed_through(api: StatusApi) -> None:
    task = new_task()
    api.objects.put(succeed(api.views, task, picture=PICTURE), PICTURE, media_type="image/png")
    api.start()
    url = api.client.get(f"/status/{task.task_id}").json()["result_url"]
    response = api.client.get(url)
    assert response.status_code == 200
    assert response.content == PICTURE
    assert response.headers["Content-Length"] == str(len(PICTURE))
    again = api.client.get(url, headers={"If-None-Match": response.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    part = api.client.get(url, headers={"Range": "bytes=1000000-1999999", "If-Range": response.headers["ETag"]})
    assert (part.status_code, part.content) == (206, PICTURE[1_000_000:2_000_000])
    assert part.headers["Content-Range"] == f"bytes 1000000-1999999/{len(PICTURE)}"
    head = api.client.head(url)
    assert (head.status_code, head.headers["Content-Length"]) == (200, str(len(PICTURE)))


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ATELIER_DATABASE_URL", "sqlite:////no/such/folder/status.db"),
        ("ATELIER_AMQP_URL", "nowhere"),
        ("ATELIER_PLANS_FILE", "/no/such/file"),
        ("ATELIER_TENANTS_URL", "nowhere"),
        ("ATELIER_S3_ACCESS_KEY", ""),
        ("ATELIER_LOG_LEVEL", "loud"),
    ],
)
def test_with_a_wrong_setting_it_ends_with_the_code_for_settings_and_names_it(
    api: StatusApi, variable: str, value: str
) -> None:
    assert api.spawn(**{variable: value}).wait(30) == ExitCode.CONFIGURATION
    (line,) = api.logged("configuration_error")
    assert (value if variable == "ATELIER_PLANS_FILE" else variable) in line["error.message"]


def test_where_the_store_is_public_the_presigned_url_works_for_anybody(api: StatusApi) -> None:
    task = new_task()
    api.objects.put(succeed(api.views, task, picture=PICTURE), PICTURE, media_type="image/png")
    api.start(ATELIER_S3_PUBLIC_ENDPOINT=api.environment["ATELIER_S3_ENDPOINT"])
    redirect = api.client.get(f"/api/v1/tasks/{task.task_id}/artifacts/0")
    assert redirect.status_code == 302
    assert httpx.get(redirect.headers["Location"], trust_env=False).content == PICTURE


def test_long_polls_wait_side_by_side_and_end_with_their_task(api: StatusApi) -> None:
    tasks = [new_task() for _ in range(20)]
    api.views.apply_events([queued_event(task) for task in tasks], seen_until=utc_now())
    api.start()
    states: list[str] = []

    def poll(task: TaskMessage) -> None:
        states.append(api.client.get(f"/status/{task.task_id}", params={"wait": 25}).json()["status"])

    threads = [threading.Thread(target=poll, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for _ in range(10):
        assert api.client.get("/healthz").status_code == 200
    assert states == []
    for task in tasks:
        succeed(api.views, task, picture=PICTURE)
    for thread in threads:
        thread.join(20)
    assert states == ["done"] * 20


def test_a_store_that_is_away_is_503_for_pictures_and_does_not_matter_for_states(api: StatusApi) -> None:
    task = new_task()
    succeed(api.views, task, picture=PICTURE)
    api.start(ATELIER_S3_ENDPOINT=f"http://127.0.0.1:{free_port()}")
    assert api.client.get(f"/status/{task.task_id}").json()["status"] == "done"
    response = api.client.get(f"/api/v1/tasks/{task.task_id}/artifacts/0")
    assert response.status_code == 503
    assert response.json()["code"] == "storage_error"
    assert "Retry-After" in response.headers


def test_every_line_is_json_with_the_request_and_the_task(api: StatusApi) -> None:
    task = new_task()
    api.views.apply_events([queued_event(task)], seen_until=utc_now())
    api.start()
    api.client.get(f"/status/{task.task_id}", headers={"X-Request-ID": "request-0042"})
    [line] = [line for line in api.logged("request_handled") if line.get("task_id") == task.task_id]
    assert line["request_id"] == "request-0042"
    assert line["tenant_id"] == TENANT
    assert line["service.name"] == "status-api"
    assert line["http.response.status_code"] == 200
    assert api.client.headers["X-API-Key"] not in (api.folder / "api.log").read_text()
