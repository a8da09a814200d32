"""How long a cancelled task still holds the device: from the cancel to the start of the task behind it."""

from __future__ import annotations

import random
import time
from collections import deque
from datetime import datetime
from typing import TYPE_CHECKING, Final

import orjson

from bench.report import Row, at_most, percentile

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

    from bench.servers import Bench

_STEPS: Final = 1000
_STEP_SECONDS: Final = 0.05
_WAITING: Final = 2
_WARM_UP: Final = 8
_PATIENCE_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.002


def run(bench: Bench, *, quick: bool) -> list[Row]:
    """Target: p99 <= one step + 100 ms."""
    count = 30 if quick else 150
    source = random.Random(20261205)  # noqa: S311 - when within a step the cancel comes
    starts = Starts(bench.stack.site.layout.logs / "worker-simulated.log")
    waiting: deque[str] = deque()
    taken: list[float] = []
    answered: list[float] = []
    with bench.client() as client:
        clerk = Clerk(client)
        for _ in range(_WARM_UP):  # each process proves its store before its first cancel
            clerk.cancel(clerk.submit())
        for _ in range(count):
            while len(waiting) <= _WAITING:
                waiting.append(clerk.submit())
            task_id = waiting.popleft()
            starts.of(task_id)
            time.sleep(source.uniform(0.1, 0.2))
            began = time.time()
            clerk.cancel(task_id)
            answered.append((time.time() - began) * 1000)
            taken.append((starts.of(waiting[0]) - began) * 1000)
        for task_id in waiting:
            clerk.cancel(task_id)
    bound = (_STEP_SECONDS + 0.1) * 1000
    detail = f"{count} DELETEs: outcome, order, stop at the next step, the next task's claim and start"
    return [
        at_most("cancel.running_to_next_start_p50", percentile(taken, 0.5), "ms", bound, detail),
        at_most("cancel.running_to_next_start_p99", percentile(taken, 0.99), "ms", bound, f"worst {max(taken):.0f} ms"),
        at_most(
            "cancel.answered_p99", percentile(answered, 0.99), "ms", bound, f"median {percentile(answered, 0.5):.0f} ms"
        ),
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


class Clerk:
    """Submits and cancels through the public entrance."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def submit(self) -> str:
        """A task that would take ``_STEPS`` steps."""
        answer = self._client.post(
            "/api/v1/generate", json={"model": "simulated", "prompt": "a lake", "steps": _STEPS, "cache": "off"}
        )
        answer.raise_for_status()
        return str(answer.json()["task_id"])

    def cancel(self, task_id: str) -> None:
        """Take it back."""
        self._client.delete(f"/api/v1/tasks/{task_id}").raise_for_status()
