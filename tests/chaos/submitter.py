"""A gevent process that submits as a gateway does, until its input ends; then it says what was confirmed, and when.

``python -m tests.chaos.submitter <amqp url> <greenlets>`` prints ``ready`` and at the end one line of JSON. Times are
of the machine's monotonic clock, which all processes share.
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402 - gevent's patches come first
import sys  # noqa: E402 - as above
import time  # noqa: E402 - as above
from collections import Counter  # noqa: E402 - as above

import gevent  # noqa: E402 - as above
from gevent.fileobject import FileObjectPosix  # noqa: E402 - as above

from shared.clock import utc_now  # noqa: E402 - as above
from shared.domain.errors import BrokerError  # noqa: E402 - as above
from shared.ids import new_task_id  # noqa: E402 - as above
from shared.logging import configure  # noqa: E402 - as above
from shared.messaging import messages  # noqa: E402 - as above
from shared.messaging.gevent_publisher import GeventPublisher  # noqa: E402 - as above
from shared.messaging.topology import QueueType  # noqa: E402 - as above
from tests.support.builders import MODEL, make_task  # noqa: E402 - as above

# The gateway's own default.
PUBLISH_SECONDS = 5.0
# Between two submits of a greenlet: a client is no closed loop, and what was confirmed is read back afterwards.
PAUSE_SECONDS = 0.02


def main() -> None:
    """Submit without end."""
    configure("submitter", stream=sys.stderr)
    publisher = GeventPublisher(sys.argv[1], "submitter", QueueType.QUORUM)
    publisher.start()
    confirmed: list[tuple[float, str]] = []
    refused: Counter[str] = Counter()
    unknown: list[str] = []

    def submit_without_end() -> None:
        while True:
            now = utc_now()
            task = make_task(task_id=new_task_id(), model=MODEL, submitted_at=now)
            try:
                publisher.publish(*messages.submit(task, now), timeout=PUBLISH_SECONDS)
            except BrokerError as exc:
                refused[type(exc).__name__] += 1
                unknown.append(task.task_id)
            else:
                confirmed.append((time.monotonic(), task.task_id))
            gevent.sleep(PAUSE_SECONDS)

    while publisher.problem is not None:
        gevent.sleep(0.05)
    greenlets = [gevent.spawn(submit_without_end) for _ in range(int(sys.argv[2]))]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    FileObjectPosix(sys.stdin.fileno(), "rb", close=False).read()
    gevent.killall(greenlets)
    sys.stdout.write(json.dumps({"confirmed": confirmed, "refused": refused, "unconfirmed": unknown}) + "\n")


if __name__ == "__main__":
    main()
