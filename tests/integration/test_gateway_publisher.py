"""The gateway's publisher against a real RabbitMQ: many greenlets, one connection, and a broker that misbehaves."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from shared.contracts.base import decode
from shared.contracts.task import TaskMessage
from shared.messaging.topology import STATUS_EVENTS, work_queue
from tests.support.builders import MODEL
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.rabbit import RabbitServer

ROOT = Path(__file__).parents[2]
WORK = work_queue(MODEL)
ABSENT = "absent"
# Far beyond what any of this takes: whatever is refused with such a timeout was not refused by its end.
LONG = 60.0
LOST = "the broker went away, or blocked publishers, before it answered"


class Process:
    """A gevent process with one publisher; see gateway_publisher_process.py."""

    def __init__(self, url: str, log: Path) -> None:
        self._log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.gateway_publisher_process", url],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )

    def do(self, what: str, **arguments: object) -> Any:  # noqa: ANN401 - whatever the command answers
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def publish(self, count: int = 1, timeout: float = LONG, models: tuple[str, ...] = (MODEL,)) -> dict[str, Any]:
        answer: dict[str, Any] = self.do("publish", count=count, timeout=timeout, models=models)
        return answer

    def until_ready(self) -> None:
        until(lambda: self.do("problem") is None, 30, "the publisher to be ready")

    def connections(self) -> int:
        """How many connections were made so far."""
        return self._log.read_text().count("amqp_connected")

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def publisher(rabbit: RabbitServer, tmp_path: Path) -> Iterator[Process]:
    """The publisher has the rights of the gateway's own user, and no more."""
    process = Process(rabbit.url("gateway"), tmp_path / "publisher.log")
    process.until_ready()
    yield process
    process.close()


def task_ids(rabbit: RabbitServer) -> list[str]:
    """Takes every task out of the work queue."""
    with rabbit.connect() as connection:
        channel = connection.channel()
        bodies = []
        while (body := channel.basic_get(WORK, auto_ack=True)[2]) is not None:
            bodies.append(body)
    return [decode(TaskMessage, body).task_id for body in bodies]


@contextmanager
def memory_alarm(rabbit: RabbitServer) -> Iterator[None]:
    rabbit.ctl("set_vm_memory_high_watermark", "0.0000001")
    try:
        yield
    finally:
        rabbit.ctl("set_vm_memory_high_watermark", "0.4")


def test_greenlets_side_by_side_get_each_their_own_confirm(rabbit: RabbitServer, publisher: Process) -> None:
    answer = publisher.publish(count=500)
    assert answer["outcomes"] == {"ok": 500}
    assert rabbit.depth(STATUS_EVENTS) == 500
    assert sorted(task_ids(rabbit)) == sorted(answer["confirmed"])


def test_a_model_without_a_queue_is_an_error_for_its_own_submits_only(rabbit: RabbitServer, publisher: Process) -> None:
    assert publisher.publish(count=20, models=(ABSENT,))["outcomes"] == {"UnroutableError": 20}
    assert publisher.publish(count=20)["outcomes"] == {"ok": 20}
    assert rabbit.depth(WORK) == 20


def test_when_only_a_later_message_has_no_queue_the_first_is_not_called_refused(
    rabbit: RabbitServer, publisher: Process
) -> None:
    answer = publisher.publish(models=(MODEL, ABSENT))
    assert answer["outcomes"] == {"PublishUnknownError": 1}
    assert answer["reasons"] == [f"no queue takes atelier.tasks/{ABSENT}"]
    assert rabbit.depth(WORK) == 1


def test_a_publish_without_an_answer_times_out_alone(rabbit: RabbitServer, publisher: Process) -> None:
    with rabbit.frozen():
        assert publisher.publish(count=10, timeout=0.2)["outcomes"] == {"PublishUnknownError": 10}
    # The late confirms of those ten must not be taken for those of the next.
    answer = publisher.publish(count=10)
    assert answer["outcomes"] == {"ok": 10}
    assert rabbit.depth(WORK) == 20
    assert set(answer["confirmed"]) <= set(task_ids(rabbit))


def test_a_killed_broker_loses_nothing_that_was_confirmed(rabbit: RabbitServer, publisher: Process) -> None:
    publisher.do("start_stream", greenlets=32)
    until(lambda: publisher.do("streamed_so_far") > 200, 30, "200 confirmed publishes")
    rabbit.kill()
    until(lambda: publisher.do("problem") == "not connected", 30, "the loss to be noticed")
    assert publisher.publish()["outcomes"] == {"BrokerUnavailableError": 1}
    rabbit.start()
    publisher.until_ready()
    answer = publisher.do("end_stream")
    assert answer["outcomes"]["PublishUnknownError"] >= 1  # what was in flight
    assert LOST in answer["reasons"]
    assert not any("no confirm within" in reason for reason in answer["reasons"])
    assert set(answer["confirmed"]) <= set(task_ids(rabbit))
    assert publisher.publish()["outcomes"] == {"ok": 1}


def test_reconnects_leave_no_descriptors_behind(rabbit: RabbitServer, publisher: Process) -> None:
    publisher.publish()
    before = publisher.do("open_files")
    for made in range(2, 5):
        rabbit.close_connections()
        until(lambda made=made: publisher.connections() == made, 30, "the next connection")  # type: ignore[misc] # mypy cannot infer a lambda with a default
        assert publisher.publish()["outcomes"] == {"ok": 1}
    assert publisher.do("open_files") == before


def test_an_alarm_refuses_at_once_and_its_end_is_noticed(rabbit: RabbitServer, publisher: Process) -> None:
    with memory_alarm(rabbit):
        # The broker tells a connection of an alarm only when that publishes; what told it is not answered.
        told = publisher.publish(count=5)
        assert told["outcomes"] == {"PublishUnknownError": 5}
        assert told["reasons"] == [LOST]
        assert publisher.do("problem") is not None
        answer = publisher.publish(count=50)
        assert answer["outcomes"] == {"BrokerUnavailableError": 50}
        assert "blocks publishers" in answer["reasons"][0]
    publisher.until_ready()
    assert publisher.publish(count=5)["outcomes"] == {"ok": 5}
    # The five in the middle of the alarm were queued when it ended: that is why they are called unknown.
    assert rabbit.depth(WORK) == 10
