"""How long a cancelled task still holds the device: from the cancel to the start of the task behind it."""

from __future__ import annotations

import random
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import orjson

from bench.report import Row, at_most, percentile
from shared.clock import utc_now
from shared.config import BrokerSettings, StorageSettings, load_settings
from shared.contracts.control import ControlMessage, Order
from shared.contracts.outcome import ErrorInfo, Outcome
from shared.contracts.task import Params, Predicted, TaskMessage
from shared.domain.task import Lane, TaskState
from shared.ids import new_execution_id, new_task_id
from shared.messaging import messages
from shared.messaging.publisher import ThreadedPublisher
from shared.storage.records import TaskRecords
from shared.storage.s3 import S3Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bench.servers import Bench

_STEPS: Final = 1000
_STEP_SECONDS: Final = 0.05
_WAITING: Final = 2
_PUBLISH_SECONDS: Final = 10.0
_PATIENCE_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.002


def run(bench: Bench, *, quick: bool) -> list[Row]:
    """Target: p99 <= one step + 100 ms."""
    count = 30 if quick else 150
    source = random.Random(20261205)  # noqa: S311 - when within a step the cancel comes
    starts = Starts(bench.stack.site.layout.logs / "worker-simulated.log")
    waiting: deque[TaskMessage] = deque()
    taken: list[float] = []
    with _clerk(bench) as clerk:
        for _ in range(count):
            while len(waiting) <= _WAITING:
                waiting.append(clerk.submit())
            task = waiting.popleft()
            starts.of(task.task_id)
            time.sleep(source.uniform(0.1, 0.2))
            began = time.time()
            clerk.cancel(task)
            taken.append((starts.of(waiting[0].task_id) - began) * 1000)
        for task in waiting:
            clerk.cancel(task)
    bound = (_STEP_SECONDS + 0.1) * 1000
    detail = f"{count} cancels: outcome, order, stop at the next step, the next task's claim and start"
    return [
        at_most("cancel.running_to_next_start_p50", percentile(taken, 0.5), "ms", bound, detail),
        at_most("cancel.running_to_next_start_p99", percentile(taken, 0.99), "ms", bound, f"worst {max(taken):.0f} ms"),
    ]


class Starts:
    """When tasks started, by a worker's log, which is read as it grows."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = path.stat().st_size
        self._at: dict[str, float] = {}

    def of(self, task_id: str) -> float:
        """Wait for a task's start; Unix seconds."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while task_id not in self._at:
            if time.monotonic() > deadline:
                message = f"{task_id} did not start"
                raise TimeoutError(message)
            time.sleep(_POLL_SECONDS)
            self._look()
        return self._at[task_id]

    def _look(self) -> None:
        with self._path.open("rb") as file:
            file.seek(self._read)
            lines = file.read().splitlines(keepends=True)
        for line in lines:
            if not line.endswith(b"\n"):
                break
            self._read += len(line)
            if b"task_started" in line:
                record = orjson.loads(line)
                self._at[record["task_id"]] = datetime.fromisoformat(record["@timestamp"]).timestamp()


@dataclass(frozen=True, slots=True)
class Clerk:
    """Submits as the gateway does, and cancels as the status service does: the outcome, then the order to workers."""

    records: TaskRecords
    gateway: ThreadedPublisher
    status: ThreadedPublisher

    def submit(self) -> TaskMessage:
        """A task that would take ``_STEPS`` steps."""
        now = utc_now()
        params = Params(prompt="a lake", prompt_format="text", width=64, height=64, steps=_STEPS, guidance=1.0, seed=7)
        task = TaskMessage(
            task_id=new_task_id(),
            tenant_id="bench",
            lane=Lane.STANDARD,
            model="simulated",
            params=params,
            submitted_at=now,
            start_deadline=now + timedelta(hours=1),
            finish_deadline=now + timedelta(hours=2),
            predicted=Predicted(gpu_seconds=_STEPS * _STEP_SECONDS, vram_mb=0),
        )
        self.gateway.publish(messages.new_task(task, now), timeout=_PUBLISH_SECONDS)
        return task

    def cancel(self, task: TaskMessage) -> None:
        """End it, and tell."""
        outcome = Outcome(
            task=task,
            state=TaskState.CANCELLED,
            attempt=1,
            execution=new_execution_id(),
            worker="bench",
            ended_at=utc_now(),
            error=ErrorInfo(code="cancelled", message="cancelled by a client"),
        )
        self.records.commit(outcome)
        order = ControlMessage(order=Order.CANCEL, task_id=task.task_id, at=utc_now())
        self.status.publish(messages.order(order), timeout=_PUBLISH_SECONDS)


@contextmanager
def _clerk(bench: Bench) -> Iterator[Clerk]:
    def publisher(program: str) -> ThreadedPublisher:
        settings = load_settings(BrokerSettings, bench.environment(program))
        return ThreadedPublisher(settings.amqp_url.get_secret_value(), "bench")

    store = S3Store(load_settings(StorageSettings, bench.environment("status-consumer")))
    clerk = Clerk(TaskRecords(store), publisher("gateway-1"), publisher("status-consumer"))
    for each in (clerk.gateway, clerk.status):
        each.start()
    yield clerk
    for each in (clerk.gateway, clerk.status):
        each.stop()
