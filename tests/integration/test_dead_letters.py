"""The operator's command line as a process of its own, on a real RabbitMQ and a real bucket."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import pytest

from shared.clock import utc_now
from shared.contracts.base import decode, encode
from shared.contracts.dead import Origin, letter_of_body
from shared.contracts.event import TaskEvent
from shared.contracts.outcome import ErrorInfo
from shared.contracts.task import TaskMessage
from shared.ids import new_task_id, retried_id
from shared.lifecycle import ExitCode
from shared.messaging import messages
from shared.messaging.publisher import ThreadedPublisher
from shared.messaging.topology import DEAD, STATUS_EVENTS, TASKS_DEAD, work_queue
from shared.storage.records import TaskRecords
from shared.storage.s3 import S3Store
from tests.support.builders import MODEL, make_dead_letter, make_outcome, make_task, outbound
from tests.support.s3 import ACCESS_KEY, SECRET_KEY
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shared.contracts.dead import DeadLetter
    from tests.support.rabbit import RabbitServer
    from tests.support.s3 import S3Server

OPS: Final = "services.worker.ops"
MORTAL: Final = "tests.integration.dead_replay_process"
SIGKILLED: Final = -9


class Operator:
    """Parks tasks as workers do, and runs the commands."""

    def __init__(self, rabbit: RabbitServer, s3: S3Server, bucket: str) -> None:
        self.rabbit = rabbit
        self.records = TaskRecords(S3Store(s3.settings(bucket)))
        self.publisher = ThreadedPublisher(rabbit.url("worker"), "test.park")
        self.environment = {
            "PATH": os.environ["PATH"],
            "ATELIER_AMQP_URL": rabbit.url("operator"),
            "ATELIER_S3_ENDPOINT": s3.endpoint,
            "ATELIER_S3_BUCKET": bucket,
            "ATELIER_S3_ACCESS_KEY": ACCESS_KEY,
            "ATELIER_S3_SECRET_KEY": SECRET_KEY,
        }

    def park(self, **changes: object) -> TaskMessage:
        """A task that was given up, and its end."""
        task = make_task(task_id=new_task_id(), submitted_at=utc_now(), attempt=3, **changes)
        self.send(make_dead_letter(task=task, parked_at=utc_now()))
        self.records.commit(make_outcome(task=task, state="failed", ended_at=utc_now()))
        return task

    def park_body(self, body: bytes, message_id: str) -> None:
        origin = Origin(exchange="atelier.returned", routing_key=MODEL, message_id=message_id)
        error = ErrorInfo(code="undecodable", message="TaskMessage is not JSON")
        self.send(letter_of_body(body, error, origin=origin, parked=("status-consumer", utc_now())))

    def send(self, *letters: DeadLetter) -> None:
        self.publisher.publish(*map(messages.dead, letters), timeout=10)

    def run(self, *arguments: str, status: int = 0, module: str = OPS) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", module, "dead", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == status, done.stderr
        return done

    def documents(self, *arguments: str, status: int = 0) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.run(*arguments, "--json", status=status).stdout.splitlines()]

    def take_all(self, queue: str) -> list[bytes]:
        """What lies in a queue, emptied."""
        bodies = []
        with self.rabbit.connect() as connection:
            channel = connection.channel()
            while (found := channel.basic_get(queue, auto_ack=True))[0] is not None:
                bodies.append(found[2] or b"")
        return bodies

    def tasks(self) -> list[TaskMessage]:
        return [decode(TaskMessage, body) for body in self.take_all(work_queue(MODEL))]

    def events(self) -> list[TaskEvent]:
        return [decode(TaskEvent, body) for body in self.take_all(STATUS_EVENTS)]

    def left(self) -> int:
        return self.rabbit.depth(TASKS_DEAD)


@pytest.fixture
def operator(rabbit: RabbitServer, s3_server: S3Server, bucket: str) -> Iterator[Operator]:
    operator = Operator(rabbit, s3_server, bucket)
    operator.publisher.start()
    yield operator
    operator.publisher.stop()


def test_what_is_parked_is_listed_and_shown_and_stays(operator: Operator) -> None:
    first, second = operator.park(), operator.park(tenant_id="zeus")
    operator.park_body(b"\xff", "m-1")
    operator.publisher.publish(
        outbound(
            DEAD, "hung", encode(make_task()), message_id="old", type="dead", headers={"x-atelier-reason": "hung"}
        ),
        timeout=10,
    )
    listed = operator.documents("list")
    assert [each["id"] for each in listed] == [first.task_id, second.task_id, "m-1", make_task().task_id]
    assert [each["form"] for each in listed] == ["letter", "letter", "letter", "legacy"]
    assert [each["id"] for each in operator.documents("list", "--tenant", "zeus")] == [second.task_id]
    shown = operator.run("show", second.task_id).stdout
    assert "Traceback" in shown
    assert first.params.prompt not in shown
    assert operator.left() == 4
    assert [each["id"] for each in operator.documents("list")] == [each["id"] for each in listed]


def test_replaying_makes_one_task_and_replaying_again_none(operator: Operator) -> None:
    old = operator.park()
    (done,) = operator.documents("replay", old.task_id)
    assert operator.documents("replay", old.task_id, status=1) == []
    (task,) = operator.tasks()
    assert (task.task_id, task.retry_of, task.attempt) == (done["retried_as"], old.task_id, 1)
    assert task.finish_deadline - task.submitted_at == old.finish_deadline - old.submitted_at
    assert task.submitted_at > old.submitted_at
    (event,) = operator.events()
    assert (event.task_id, event.data.task) == (task.task_id, task)
    assert operator.left() == 0


def test_killed_between_publish_and_removal_and_replayed_again_it_is_one_task(operator: Operator) -> None:
    old = operator.park()
    operator.run("replay", "--all", status=SIGKILLED, module=MORTAL)
    until(lambda: operator.left() == 1, what="the letter to be back")
    operator.run("replay", "--all", status=SIGKILLED, module=MORTAL)
    until(lambda: operator.left() == 1, what="the letter to be back")
    (done,) = operator.documents("replay", "--all")
    copies = operator.tasks()
    assert {task.task_id for task in copies} == {done["retried_as"]}
    assert {task.retry_of for task in copies} == {old.task_id}
    assert len(copies) == 3  # claims let one of them run
    assert operator.left() == 0


def test_once_the_replay_has_ended_its_letter_is_only_removed(operator: Operator) -> None:
    old = operator.park()
    outcome = operator.records.outcome(old.task_id)
    assert outcome is not None
    new = make_task(task_id=retried_id(old.task_id, outcome.ended_at))
    operator.run("replay", "--all", status=SIGKILLED, module=MORTAL)
    until(lambda: operator.left() == 1, what="the letter to be back")
    assert [task.task_id for task in operator.tasks()] == [new.task_id]
    operator.records.commit(make_outcome(task=new))
    (done,) = operator.documents("replay", "--all")
    assert (done["fate"], done["why"], done["retried_as"]) == ("already_replayed", "succeeded", new.task_id)
    assert (operator.tasks(), operator.left()) == ([], 0)


def test_what_cannot_be_replayed_is_refused_and_can_be_dropped(operator: Operator) -> None:
    operator.park_body(b"\xff", "m-1")
    old = operator.park()
    refused, replayed = operator.documents("replay", "--all", status=3)
    assert (refused["id"], refused["fate"], replayed["fate"]) == ("m-1", "refused", "replayed")
    assert operator.left() == 1
    done = operator.run("drop", "m-1")
    assert done.stdout == "dropped m-1\n"
    audits = [json.loads(line) for line in done.stderr.splitlines() if '"audit"' in line]
    assert [(line["action"], line["phase"], line["task_id"]) for line in audits] == [
        ("dead_letter_drop", "begin", "m-1"),
        ("dead_letter_drop", "done", "m-1"),
    ]
    assert operator.left() == 0
    assert [task.retry_of for task in operator.tasks()] == [old.task_id]


def test_a_thousand_are_listed_without_loss_or_reorder(operator: Operator) -> None:
    now = utc_now()
    tasks = [make_task(task_id=new_task_id(), attempt=3) for _ in range(1000)]
    parked = [make_dead_letter(task=task, parked_at=now - timedelta(minutes=1)) for task in tasks]
    operator.send(*parked)
    for _ in range(2):
        assert [each["id"] for each in operator.documents("list")] == [task.task_id for task in tasks]
    assert operator.take_all(TASKS_DEAD) == [encode(letter) for letter in parked]


def test_a_reader_that_leaves_early_costs_nothing(operator: Operator) -> None:
    for _ in range(3):
        operator.park()
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", OPS, "dead", "list"],
        env=operator.environment,
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 141
    assert b"Traceback" not in done.stderr
    until(lambda: operator.left() == 3, what="everything to be back")


def test_a_broker_that_is_away_or_refuses_has_an_exit_status_and_says_so(operator: Operator) -> None:
    operator.environment["ATELIER_AMQP_URL"] = operator.rabbit.url("gateway")
    operator.park()
    assert "ACCESS_REFUSED" in operator.run("list", status=ExitCode.DEPENDENCY).stderr
    assert operator.left() == 1
