"""The gateway's publisher lives in a gevent process, so each test drives one over a pipe."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil
import pytest

from shared.messaging.topology import TASKS, work_queue
from tests.support.builders import MODEL
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.rabbit import RabbitServer

SECONDS: Final = 20.0
WORK: Final = work_queue(MODEL)
REFUSED: Final = {"BrokerUnavailableError", "PublishUnknownError"}
ROOT: Final = Path(__file__).parents[2]

# One line of JSON in: what to publish, by how many greenlets. One line out: how many calls ended how.
_PROGRAM: Final = """
from gevent import monkey
monkey.patch_all()
import json, sys, time
from collections import Counter
import gevent
from gevent.fileobject import FileObject
from shared.domain.errors import BrokerError
from shared.logging import configure
from shared.messaging.gevent_publisher import GeventPublisher
from shared.messaging.ports import OutboundMessage

configure("test", stream=sys.stderr)
publisher = GeventPublisher(sys.argv[1], "test.gevent")
publisher.start()

def publish(order, worker, ends):
    number, until = 0, time.monotonic() + order.get("seconds", 1e9)
    while number < order["each"] and time.monotonic() < until:
        name = f"{worker}-{number}"
        number += 1
        message = OutboundMessage(exchange=order["exchange"], routing_key=order["key"], body=name.encode(),
                                  message_id=name, type="test")
        try:
            publisher.publish(message, timeout=order["timeout"])
            ends["confirmed"] += 1
        except BrokerError as exc:
            ends[type(exc).__name__] += 1
            if order.get("until_failure"):
                return

for line in FileObject(sys.stdin.fileno(), "r", close=False):
    order, ends, began = json.loads(line), Counter(), time.monotonic()
    gevent.joinall([gevent.spawn(publish, order, worker, ends) for worker in range(order["greenlets"])],
                   raise_error=True)
    answer = {"ends": ends, "seconds": time.monotonic() - began, "problem": publisher.problem}
    sys.stdout.write(json.dumps(answer) + "\\n")
    sys.stdout.flush()
publisher.stop()
"""


class Gateway:
    """A gevent process with one publisher."""

    def __init__(self, url: str, log: Path) -> None:
        self._log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, url],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=ROOT,
            )

    def order(self, greenlets: int, each: int, **changes: object) -> None:
        """Let so many greenlets publish so many messages each."""
        assert self._process.stdin is not None
        order = {"exchange": TASKS, "key": MODEL, "timeout": SECONDS, "greenlets": greenlets, "each": each}
        self._process.stdin.write(json.dumps(order | changes) + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        """How the last order ended."""
        assert self._process.stdout is not None
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def publish(self, greenlets: int = 1, each: int = 1, **changes: object) -> dict[str, int]:
        """Order, and how many of the calls ended how."""
        self.order(greenlets, each, **changes)
        ends: dict[str, int] = self.answer()["ends"]
        return ends

    def works(self) -> bool:
        """Whether a publish is confirmed."""
        return self.publish() == {"confirmed": 1}

    def descriptors(self) -> int:
        """Open files and sockets of the process."""
        return psutil.Process(self._process.pid).num_fds()

    def connections(self) -> int:
        """How often it has connected."""
        return self._log.read_text().count('"amqp_connected"')

    def stop(self) -> int:
        """The exit code after its input has ended."""
        self._process.communicate(timeout=SECONDS)
        return self._process.returncode

    def kill(self) -> None:
        """Leave nothing."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def gateway(rabbit: RabbitServer, tmp_path: Path) -> Iterator[Gateway]:
    gateway = Gateway(rabbit.url("gateway"), tmp_path / "gateway.log")
    until(gateway.works, SECONDS, "the publisher to connect")
    rabbit.purge()
    yield gateway
    gateway.kill()


def test_many_greenlets_publish_and_every_confirmed_message_is_there(rabbit: RabbitServer, gateway: Gateway) -> None:
    assert gateway.publish(greenlets=50, each=10) == {"confirmed": 500}
    assert rabbit.depth(WORK) == 500
    assert gateway.stop() == 0


def test_a_message_that_no_queue_takes_is_an_error(rabbit: RabbitServer, gateway: Gateway) -> None:
    assert gateway.publish(greenlets=5, each=2, key="no-such-model") == {"UnroutableError": 10}
    assert gateway.works()
    assert rabbit.depth(WORK) == 1


def test_a_killed_broker_ends_every_wait_and_is_found_again(rabbit: RabbitServer, gateway: Gateway) -> None:
    gateway.order(greenlets=50, each=10**9, until_failure=True)
    until(lambda: rabbit.depth(WORK) > 100, SECONDS, "publishes in flight")
    rabbit.kill()
    try:
        answer = gateway.answer()
        failed = sum(answer["ends"].get(name, 0) for name in REFUSED)
        assert failed == 50
        assert set(answer["ends"]) <= REFUSED | {"confirmed"}
        assert answer["problem"] == "not connected"
        assert gateway.publish() == {"BrokerUnavailableError": 1}
    finally:
        rabbit.start()
    # A confirm is a promise over the broker's death.
    assert rabbit.depth(WORK) >= answer["ends"]["confirmed"]
    until(gateway.works, SECONDS, "the publisher to reconnect")


def test_reconnects_leak_no_descriptors(rabbit: RabbitServer, gateway: Gateway) -> None:
    def reconnect() -> None:
        seen = gateway.connections()
        rabbit.close_connections()
        until(lambda: gateway.connections() > seen, SECONDS, "a new connection")
        until(gateway.works, SECONDS, "the publisher to reconnect")

    reconnect()
    before = gateway.descriptors()
    for _ in range(5):
        reconnect()
    assert gateway.descriptors() <= before


def test_a_memory_alarm_refuses_publishes_at_once_and_ends(rabbit: RabbitServer, gateway: Gateway) -> None:
    usual = "0.4"
    rabbit.ctl("set_vm_memory_high_watermark", "0.0000001")
    try:
        # The broker tells a connection of the alarm when it publishes; that publish may or may not get in.
        first = gateway.publish(greenlets=5)
        assert set(first) <= REFUSED
        gateway.order(greenlets=20, each=1)
        answer = gateway.answer()
        assert answer["ends"] == {"BrokerUnavailableError": 20}
        assert answer["problem"] == "low on memory"
    finally:
        rabbit.ctl("set_vm_memory_high_watermark", usual)
    until(gateway.works, SECONDS, "the alarm to end")
