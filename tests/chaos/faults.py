"""The faults, and a run that submits tasks while they happen."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import httpx

from shared.domain.task import TaskState
from tests.support.waiting import until

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from tests.support.native import NativeStack

SUBMITTERS: Final = 4
AT_ONCE: Final = 120
PACE_SECONDS: Final = 0.8
SUBMIT_SECONDS: Final = 120
PROGRESS_SECONDS: Final = 180


def kill_worker_parent(stack: NativeStack) -> None:
    os.kill(stack.pid("worker-simulated"), signal.SIGKILL)


def kill_worker_child(stack: NativeStack) -> None:
    os.kill(stack.child_of("worker-simulated"), signal.SIGKILL)


def kill_gateway(stack: NativeStack) -> None:
    os.kill(stack.pid("gateway-1"), signal.SIGKILL)


def kill_status_consumer(stack: NativeStack) -> None:
    os.kill(stack.pid("status-consumer"), signal.SIGKILL)


def restart_rabbitmq(stack: NativeStack) -> None:
    stack.restart("rabbitmq")


FAULTS: Final[dict[str, Callable[[NativeStack], None]]] = {
    "kill_worker_parent": kill_worker_parent,
    "kill_worker_child": kill_worker_child,
    "kill_gateway": kill_gateway,
    "kill_status_consumer": kill_status_consumer,
    "restart_rabbitmq": restart_rabbitmq,
}


class FaultRun:
    """Submits through Nginx until enough tasks are accepted; a refused or broken submit is simply tried again."""

    def __init__(self, stack: NativeStack, source: random.Random) -> None:
        self.stack = stack
        self.random = source
        self.accepted: list[str] = []
        self.refusals: dict[str, int] = {}
        self._before = self._outcomes()
        self._lock = threading.Lock()

    def submit_while(self, count: int, *, faults: list[str]) -> None:
        """Submit ``count`` tasks from a few clients, and cause the faults spread over the time in which they run."""
        with ThreadPoolExecutor(SUBMITTERS) as pool:
            futures = [pool.submit(self._submit_one, number) for number in range(count)]
            for number, fault in enumerate(faults, start=1):
                target = count * number // (len(faults) + 1)
                until(lambda target=target: self.ended() >= target, PROGRESS_SECONDS, f"{target} ended tasks")  # type: ignore[misc] # mypy cannot infer a lambda with a default
                FAULTS[fault](self.stack)
            for future in futures:
                future.result()

    def ended(self) -> int:
        """How many of this run's tasks have an outcome."""
        return len(self._outcomes() - self._before)

    def is_final(self, task_id: str) -> bool:
        """Whether the status API answers with a final state; one that is just restarting does not count."""
        try:
            answer = self.stack.get(f"/api/v1/tasks/{task_id}")
        except httpx.HTTPError:
            return False
        return answer.status_code == httpx.codes.OK and TaskState(answer.json()["state"]).is_final

    def state_of(self, task_id: str) -> str:
        """The state that the status API shows."""
        return str(self.stack.get(f"/api/v1/tasks/{task_id}").json()["state"])

    def report(self) -> None:
        """Say how much was computed more than once, for the record."""
        starts = sum("/claim-" in key for key in self.stack.store.keys("tasks/"))
        sys.stderr.write(f"\naccepted {len(self.accepted)}, starts so far {starts}, refused {self.refusals}\n")

    def _submit_one(self, number: int) -> None:
        if number >= AT_ONCE:
            time.sleep(PACE_SECONDS)  # so that the faults meet submits as well as work
        seed, steps = self.random.randrange(2**31), self.random.randint(1, 4)
        until(lambda: self._try_submit(seed, steps), SUBMIT_SECONDS, "an accepted submit")

    def _try_submit(self, seed: int, steps: int) -> bool:
        body = {"model": "simulated", "prompt": "a quiet lake", "seed": seed, "steps": steps}
        try:
            answer = self.stack.post("/api/v1/generate", body)
        except httpx.HTTPError as exc:
            return self._refused(type(exc).__name__)
        if answer.status_code != httpx.codes.ACCEPTED:
            return self._refused(str(answer.status_code))
        with self._lock:
            self.accepted.append(str(answer.json()["task_id"]))
        return True

    def _refused(self, why: str) -> bool:
        with self._lock:
            self.refusals[why] = self.refusals.get(why, 0) + 1
        return False

    def _outcomes(self) -> set[str]:
        return {key for key in self.stack.store.keys("tasks/") if key.endswith("/outcome.json")}
