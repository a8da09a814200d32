"""A gevent process around one GeventPublisher, driven by JSON lines; gevent's patches would change the test process.

``python -m tests.integration.gateway_publisher_process <amqp url>`` reads ``{"do": …}`` and answers each with one line.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402 - gevent's patches come first
import os  # noqa: E402 - as above
import sys  # noqa: E402 - as above
from collections import Counter  # noqa: E402 - as above
from dataclasses import dataclass, field  # noqa: E402 - as above
from typing import Any  # noqa: E402 - as above

import gevent  # noqa: E402 - as above
from gevent.fileobject import FileObjectPosix  # noqa: E402 - as above

from shared.clock import utc_now  # noqa: E402 - as above
from shared.contracts.event import queued_event  # noqa: E402 - as above
from shared.domain.errors import BrokerError  # noqa: E402 - as above
from shared.ids import new_task_id  # noqa: E402 - as above
from shared.logging import configure  # noqa: E402 - as above
from shared.messaging import messages  # noqa: E402 - as above
from shared.messaging.gevent_publisher import GeventPublisher  # noqa: E402 - as above
from tests.support.builders import MODEL, make_task  # noqa: E402 - as above


@dataclass
class Results:
    """How many publishes ended in which way, and the tasks that were confirmed."""

    outcomes: Counter[str] = field(default_factory=Counter)
    confirmed: list[str] = field(default_factory=list)
    reasons: set[str] = field(default_factory=set)

    def as_json(self) -> dict[str, Any]:
        return {"outcomes": self.outcomes, "confirmed": self.confirmed, "reasons": sorted(self.reasons)}


class Driver:
    """Runs the commands."""

    def __init__(self, url: str) -> None:
        self.publisher = GeventPublisher(url, "test.gateway")
        self.publisher.start()
        self.stream: list[gevent.Greenlet[..., None]] = []
        self.streaming = False
        self.streamed = Results()

    def problem(self) -> str | None:
        return self.publisher.problem

    def open_files(self) -> int:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - only their number

    def publish(self, count: int, timeout: float, models: list[str]) -> dict[str, Any]:
        """So many greenlets at once, each with one call: a task for each of the models, and the first one's event."""
        results = Results()
        gevent.joinall([gevent.spawn(self._one, results, timeout, models) for _ in range(count)], raise_error=True)
        return results.as_json()

    def start_stream(self, greenlets: int) -> None:
        """Publish without end."""
        self.streaming, self.streamed = True, Results()
        self.stream = [gevent.spawn(self._without_end) for _ in range(greenlets)]

    def streamed_so_far(self) -> int:
        return len(self.streamed.confirmed)

    def end_stream(self) -> dict[str, Any]:
        self.streaming = False
        gevent.joinall(self.stream, raise_error=True)
        return self.streamed.as_json()

    def _without_end(self) -> None:
        while self.streaming:
            self._one(self.streamed, 30.0, [MODEL])

    def _one(self, results: Results, timeout: float, models: list[str]) -> None:
        now = utc_now()
        tasks = [make_task(task_id=new_task_id(), model=model, submitted_at=now) for model in models]
        outbound = [messages.new_task(task, now) for task in tasks]
        try:
            self.publisher.publish(*outbound, messages.event(queued_event(tasks[0])), timeout=timeout)
        except BrokerError as exc:
            results.outcomes[type(exc).__name__] += 1
            results.reasons.add(exc.message)
        else:
            results.outcomes["ok"] += 1
            results.confirmed.append(tasks[0].task_id)


def main() -> None:
    """Serve commands until the input ends."""
    configure("test", stream=sys.stderr)
    driver = Driver(sys.argv[1])
    for line in FileObjectPosix(sys.stdin.fileno(), "rb", close=False):
        command = json.loads(line)
        answer = getattr(driver, command.pop("do"))(**command)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
