"""The real status consumer and sweeper over the real broker, bucket and database, with real workers beside them."""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

from services.status.store.sql import open_store
from shared.auth.store.sql import open_store as open_tenants
from shared.contracts.event import queued_event
from shared.messaging import messages
from tests.support.ports import free_port
from tests.support.s3 import ACCESS_KEY, SECRET_KEY
from tests.support.waiting import until
from tests.support.worker_process import CHECKOUT, WorkerSite

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from services.status.view import TaskView
    from shared.contracts.task import TaskMessage
    from shared.domain.task import TaskState
    from tests.support.processes import ProcessGuard
    from tests.support.rabbit import RabbitServer
    from tests.support.s3 import S3Server


class Program:
    """One process of the status service."""

    def __init__(self, guard: ProcessGuard, module: str, log: Path, environment: dict[str, str]) -> None:
        self.port = free_port()
        self.log = log
        self._guard = guard
        env = {**environment, "ATELIER_METRICS_PORT": str(self.port)}
        self.process: subprocess.Popen[bytes] = guard.spawn(
            [sys.executable, "-m", module], log=log, env=env, cwd=CHECKOUT
        )
        until(lambda: bool(self._get("/readyz")), 30, f"{module} (see {log})")

    def acts(self) -> bool:
        return "atelier_sweeper_acting 1.0" in self._get("/metrics")

    def kill(self) -> None:
        self._guard.kill(self.process)

    def _get(self, path: str) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return str(answer.read().decode())
        except (urllib.error.URLError, ConnectionError):
            return ""


class SweptSite(WorkerSite):
    """Workers, and the status service beside them."""

    def __init__(self, rabbit: RabbitServer, s3: S3Server, bucket: str, guard: ProcessGuard, folder: Path) -> None:
        super().__init__(rabbit, s3, bucket, guard, folder)
        self.guard = guard
        self.database_url = f"sqlite:///{folder}/status.db"
        self.views = open_store(self.database_url)
        open_tenants(f"sqlite:///{folder}/tenants.db").close()
        self.environment = {
            "PATH": os.environ["PATH"],
            "ATELIER_AMQP_URL": rabbit.url("status"),
            "ATELIER_DATABASE_URL": self.database_url,
            "ATELIER_TENANTS_URL": f"sqlite:///{folder}/tenants.db",
            "ATELIER_S3_ENDPOINT": s3.endpoint,
            "ATELIER_S3_BUCKET": bucket,
            "ATELIER_S3_ACCESS_KEY": ACCESS_KEY,
            "ATELIER_S3_SECRET_KEY": SECRET_KEY,
        }
        self.programs: list[Program] = []
        self.consume()

    def consume(self, name: str = "consumer") -> Program:
        """Start a consumer."""
        program = self._program("services.status.consumer", name)
        self.programs.append(program)
        return program

    def sweep(self, name: str = "sweeper", **settings: str) -> Program:
        """Start a sweeper that looks often, with further settings such as ``SWEEP_SILENT_SECONDS="1"``."""
        further = {f"ATELIER_{key}": value for key, value in settings.items()}
        program = self._program("services.status.sweeper", name, ATELIER_SWEEP_SECONDS="0.2", **further)
        self.programs.append(program)
        return program

    def accept(self, **changes: object) -> TaskMessage:
        """Submit, and tell it as the gateway does."""
        task = self.submit(**changes)
        self.publisher.publish(messages.event(queued_event(task)), timeout=10)
        return task

    def view(self, task: TaskMessage) -> TaskView:
        view = until(lambda: self.views.get(task.task_id), 20, "the task's first news")
        assert view is not None
        return view

    def await_state(self, task: TaskMessage, state: TaskState) -> None:
        until(lambda: self.view(task).state is state, 60, f"{task.task_id} to be {state}")

    def started(self) -> list[str]:
        """The tasks that were computed, in order."""
        return [line["task_id"] for line in self.lines("task_started")]

    def close(self) -> None:
        for program in self.programs:
            program.kill()
        self.views.close()
        super().close()

    def _program(self, module: str, name: str, **settings: str) -> Program:
        return Program(self.guard, module, self.folder / f"{name}.log", {**self.environment, **settings})
