"""Real worker processes over the real broker and store of a test run, and what a test asks of them."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil

from shared.clock import utc_now
from shared.contracts.base import decode
from shared.contracts.control import ControlMessage, Order
from shared.contracts.event import TaskEvent
from shared.domain.settle import RETRY_DELAYS_SECONDS
from shared.ids import new_task_id
from shared.messaging import messages
from shared.messaging.publisher import ThreadedPublisher
from shared.messaging.topology import STATUS_EVENTS, TASKS_DEAD, retry_queue, work_queue
from shared.storage.records import TaskRecords
from shared.storage.s3 import S3Store
from tests.support.builders import MODEL, make_params, make_task
from tests.support.s3 import ACCESS_KEY, SECRET_KEY
from tests.support.waiting import until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from shared.contracts.outcome import Outcome
    from shared.contracts.task import TaskMessage
    from tests.support.processes import ProcessGuard
    from tests.support.rabbit import RabbitServer
    from tests.support.s3 import S3Server

CHECKOUT: Final = Path(__file__).parents[2]
STEP_SECONDS: Final = 0.05


class WorkerSite:
    """A broker, a bucket, and workers that come and go."""

    def __init__(self, rabbit: RabbitServer, s3: S3Server, bucket: str, guard: ProcessGuard, folder: Path) -> None:
        self.rabbit = rabbit
        self.folder = folder
        self._guard = guard
        self._s3 = s3
        self.bucket = bucket
        self.store = S3Store(s3.settings(bucket))
        self.records = TaskRecords(self.store)
        self.publisher = ThreadedPublisher(rabbit.url("gateway"), "test-gateway", rabbit.queue_type)
        self.publisher.start()
        self._status = ThreadedPublisher(rabbit.url("status"), "test-status")
        self._status.start()
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def s3_endpoint(self) -> str:
        """The address of the object store."""
        return self._s3.endpoint

    def start(self, name: str = "worker-1", **settings: str) -> subprocess.Popen[bytes]:
        """Start a worker with further settings, such as ``FAULT_POINT="after ack"``."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "PYTHONPATH": str(CHECKOUT),
            "ATELIER_AMQP_URL": self.rabbit.url("worker"),
            "ATELIER_QUEUE_TYPE": self.rabbit.queue_type,
            "ATELIER_WORKER_MODEL": MODEL,
            "ATELIER_WORKER_ID": name,
            "ATELIER_WORK_DIR": str(self.folder / "work"),
            "ATELIER_MODELS_DIR": str(CHECKOUT / "models"),
            "ATELIER_S3_ENDPOINT": self._s3.endpoint,
            "ATELIER_S3_BUCKET": self.bucket,
            "ATELIER_S3_ACCESS_KEY": ACCESS_KEY,
            "ATELIER_S3_SECRET_KEY": SECRET_KEY,
            **{f"ATELIER_{key}": value for key, value in settings.items()},
        }
        command = [sys.executable, "-m", "services.worker"]
        process = self._guard.spawn(command, log=self.log(name), env=environment, cwd=CHECKOUT)
        self._processes[name] = process
        return process

    def models(self, change: Callable[[str], str]) -> Path:
        """A models folder of this test's own, with a changed card of the simulated model."""
        folder = self.folder / "models" / MODEL
        folder.mkdir(parents=True)
        card = (CHECKOUT / "models" / MODEL / "atelier.toml").read_text()
        changed = change(card)
        assert changed != card
        (folder / "atelier.toml").write_text(changed)
        return folder.parent

    def log(self, name: str = "worker-1") -> Path:
        """What a worker wrote."""
        return self.folder / f"{name}.log"

    def lines(self, message: str, name: str = "worker-1") -> list[dict[str, Any]]:
        """The log events of one name."""
        text = self.log(name).read_text() if self.log(name).exists() else ""
        lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        return [line for line in lines if line["message"] == message]

    def await_line(self, message: str, name: str = "worker-1", count: int = 1) -> dict[str, Any]:
        """Wait for a log event and return the last."""
        until(lambda: len(self.lines(message, name)) >= count, 60, f"{count} x {message} of {name} ({self.log(name)})")
        return self.lines(message, name)[-1]

    def child(self, name: str = "worker-1") -> psutil.Process:
        """The process that runs the model."""
        return psutil.Process(self.await_line("runner_started", name)["runner_pid"])

    def submit(self, **changes: Any) -> TaskMessage:  # noqa: ANN401 - any field
        """Publish a task, as the gateway does."""
        now = utc_now()
        params = changes.pop("params", None) or make_params(steps=changes.pop("steps", 2))
        task = make_task(**{"task_id": new_task_id(), "submitted_at": now, "params": params, **changes})
        self.publisher.publish(messages.new_task(task, now), timeout=10)
        return task

    def tell(self, order: Order, **fields: str) -> None:
        """Tell all workers something, as the status service does."""
        control = ControlMessage.model_validate({"order": order, "at": utc_now(), **fields})
        self._status.publish(messages.order(control), timeout=10)

    def outcome(self, task: TaskMessage, seconds: float = 60) -> Outcome:
        """Wait for a task's outcome."""
        until(lambda: self.records.outcome(task.task_id) is not None, seconds, f"the end of {task.task_id}")
        outcome = self.records.outcome(task.task_id)
        assert outcome is not None
        return outcome

    def await_rest(self, seconds: float = 60) -> None:
        """Wait until no work queue and no retry queue holds anything, not even unacked."""
        names = {work_queue(MODEL), *map(retry_queue, RETRY_DELAYS_SECONDS)}

        def at_rest() -> bool:
            rows = self.rabbit.listing("queues", "name", "messages")
            return not any(row["messages"] for row in rows if row["name"] in names)

        until(at_rest, seconds, "empty queues")

    def events(self) -> list[TaskEvent]:
        """Every event so far; they stay."""
        return [decode(TaskEvent, body) for body in self._peek(STATUS_EVENTS)]

    def dead(self) -> int:
        """How many messages are parked."""
        return self.rabbit.depth(TASKS_DEAD)

    def stop(self, name: str = "worker-1") -> int:
        """SIGTERM, and the exit status."""
        process = self._processes[name]
        process.send_signal(signal.SIGTERM)
        return process.wait(60)

    def kill(self, name: str = "worker-1") -> None:
        """``kill -9`` to the worker and what is left of its group."""
        self._guard.kill(self._processes[name])

    def kill_all(self) -> None:
        """``kill -9`` to every worker."""
        for process in self._processes.values():
            self._guard.kill(process)

    def close(self) -> None:
        """End everything."""
        self.kill_all()
        self.publisher.stop()
        self._status.stop()

    def _peek(self, queue: str) -> list[bytes]:
        bodies: list[bytes] = []
        with self.rabbit.connect() as connection:
            channel = connection.channel()
            while True:
                method, _, body = channel.basic_get(queue)
                if method is None:
                    return bodies
                bodies.append(body or b"")
