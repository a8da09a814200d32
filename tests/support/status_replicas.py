"""The status service as it is deployed: two API processes behind nginx, two consumers, one broker, one database."""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import httpx

from bench.crowd import Crowd, Line
from infra.native.entrance import local_entrance, nginx_command
from infra.nginx.entrance import nginx_conf
from services.status.store.engine import open_engine
from services.status.store.news_sql import SqlNewsLog
from shared.clock import utc_now
from shared.contracts.event import Progress, ended_event, progress_event, queued_event, started_event
from shared.domain.task import Phase
from shared.ids import new_task_id
from shared.messaging import messages
from shared.messaging.publisher import ThreadedPublisher
from tests.support.builders import make_outcome, make_task
from tests.support.ports import LOOPBACK, free_ports
from tests.support.s3 import ACCESS_KEY, SECRET_KEY
from tests.support.tenants import tenant_environment
from tests.support.waiting import until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from services.status.news import LoggedNews
    from shared.contracts.event import Preview, TaskEvent
    from shared.contracts.task import TaskMessage
    from tests.support.processes import ProcessGuard
    from tests.support.rabbit import RabbitServer
    from tests.support.s3 import S3Server

OPERATOR_KEY: Final = "operator-key-for-tests"
PUBLISH_SECONDS: Final = 10.0
START_SECONDS: Final = 30.0


class StatusSite:
    """Processes by name: ``api-0``, ``api-1``, ``consumer-0``, ``consumer-1``, ``nginx``."""

    def __init__(self, rabbit: RabbitServer, s3: S3Server, bucket: str, guard: ProcessGuard, folder: Path) -> None:
        self.guard, self.folder = guard, folder
        self.apis = free_ports(2)
        self.consumers = free_ports(2)
        (self.front,) = free_ports(1)
        self.tenants = ("acme", "other", "third", "fourth")
        tenants, keys = tenant_environment(folder, *self.tenants)
        self.keys = dict(zip(self.tenants, keys, strict=True))
        self.database = folder / "status.db"
        self.environment = {
            "PATH": os.environ["PATH"],
            **tenants,
            "ATELIER_AMQP_URL": rabbit.url("status"),
            "ATELIER_DATABASE_URL": f"sqlite:///{self.database}",
            "ATELIER_OPERATOR_KEY": OPERATOR_KEY,
            "ATELIER_S3_ENDPOINT": s3.endpoint,
            "ATELIER_S3_BUCKET": bucket,
            "ATELIER_S3_ACCESS_KEY": ACCESS_KEY,
            "ATELIER_S3_SECRET_KEY": SECRET_KEY,
        }
        self.publisher = ThreadedPublisher(rabbit.url("gateway"), "test-site")
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, **settings: str | int) -> None:
        """Everything, with further ``ATELIER_`` settings."""
        self.environment |= {f"ATELIER_{name.upper()}": str(value) for name, value in settings.items()}
        self.publisher.start()
        for number in range(len(self.apis)):
            self.start_api(number)
        for number in range(len(self.consumers)):
            self.start_consumer(number)
        conf = self.folder / "nginx.conf"
        entrance = local_entrance(
            listen=self.front,
            gateways=free_ports(1),
            status_apis=self.apis,
            run=self.folder,
            access_log=str(self.folder / "access.log"),
        )
        conf.write_text(nginx_conf(entrance))
        self.processes["nginx"] = self.guard.spawn(nginx_command(conf), log=self.folder / "nginx.log")
        for port in (*self.apis, *self.consumers):
            until(lambda port=port: _ready(port), START_SECONDS, f"port {port} (see {self.folder})")  # type: ignore[misc] # mypy cannot infer a lambda with a default

    def start_api(self, number: int) -> None:
        port = self.apis[number]
        command = [sys.executable, "-m", "gunicorn", "--config", "services/status/gunicorn_conf.py"]
        command += ["--bind", f"{LOOPBACK}:{port}", "services.status.wsgi:build()"]
        self._spawn(f"api-{number}", command, {})

    def start_consumer(self, number: int) -> None:
        command = [sys.executable, "-m", "services.status.consumer"]
        self._spawn(f"consumer-{number}", command, {"ATELIER_METRICS_PORT": str(self.consumers[number])})

    def kill(self, name: str) -> None:
        """``kill -9``."""
        self.guard.kill(self.processes.pop(name))

    def stop(self) -> None:
        self.publisher.stop()
        for name in list(self.processes):
            self.kill(name)

    def publish(self, *events: TaskEvent) -> None:
        self.publisher.publish(*map(messages.event, events), timeout=PUBLISH_SECONDS)

    def begin(self, *tasks: TaskMessage) -> None:
        """Tasks that are known to run."""
        self.publish(*(event for task in tasks for event in begun(task)))
        running = {task.task_id for task in tasks}
        until(
            lambda: running == {logged.news.task_id for logged in self.logged() if logged.news.type == "started"},
            what="the starts to be logged",
        )

    def client(self, port: int, tenant: str = "acme") -> httpx.Client:
        headers = {"X-API-Key": self.keys[tenant]}
        return httpx.Client(base_url=f"http://{LOOPBACK}:{port}", headers=headers, timeout=30, trust_env=False)

    def logged(self, task_id: str | None = None) -> Sequence[LoggedNews]:
        """All news, or that of a task."""
        engine = open_engine(self.environment["ATELIER_DATABASE_URL"])
        try:
            return SqlNewsLog(engine).after(0, 1_000_000, task_id=task_id)
        finally:
            engine.dispose()

    def metric(self, number: int, line: str) -> float:
        """A figure of an API process; ``line`` is its name with its labels."""
        text = httpx.get(f"http://{LOOPBACK}:{self.apis[number]}/metrics", trust_env=False).text
        return next((float(row.split()[-1]) for row in text.splitlines() if row.startswith(f"{line} ")), 0.0)

    @contextmanager
    def crowd(self, port: int, *lines: Line) -> Iterator[Crowd]:
        """Open streams at a port."""
        crowd = Crowd(LOOPBACK, port, lines)
        try:
            crowd.open()
            yield crowd
        finally:
            crowd.close()

    def of_task(self, task: TaskMessage, last_event_id: str = "") -> Line:
        return Line(f"/api/v1/tasks/{task.task_id}/events", self.keys[task.tenant_id], last_event_id)

    def of_tenant(self, tenant: str, last_event_id: str = "") -> Line:
        return Line("/api/v1/events", self.keys[tenant], last_event_id)

    def _spawn(self, name: str, command: Sequence[str], changes: dict[str, str]) -> None:
        log = self.folder / f"{name}.log"
        self.processes[name] = self.guard.spawn(command, log=log, env=self.environment | changes)


def new_task(tenant: str = "acme") -> TaskMessage:
    return make_task(task_id=new_task_id(), tenant_id=tenant, submitted_at=utc_now())


def begun(task: TaskMessage) -> list[TaskEvent]:
    return [queued_event(task), started_event(task, worker="w", execution="e", at=utc_now())]


def step(task: TaskMessage, number: int, preview: Preview | None = None) -> TaskEvent:
    progress = Progress(phase=Phase.DENOISING, step=number, steps=1000, preview=preview)
    return progress_event(task, progress, sequence=number + 1, at=utc_now())


def over(task: TaskMessage) -> TaskEvent:
    return ended_event(make_outcome(task=task, artifacts=(), ended_at=utc_now()))


def _ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{LOOPBACK}:{port}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False
