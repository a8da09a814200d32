"""A gateway process listens to workers beside its work, and works on when it cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pytest

from shared.clock import utc_now
from shared.messaging.messages import worker_report
from shared.messaging.publisher import ThreadedPublisher
from shared.messaging.topology import GATEWAY_LEDGER, WORKERS, work_queue
from tests.integration.test_gateway_process import GatewayProcess
from tests.support.builders import make_report
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.processes import ProcessGuard
    from tests.support.rabbit import RabbitServer

SECONDS: Final = 30.0


@pytest.fixture
def gateway(rabbit: RabbitServer, process_guard: ProcessGuard, tmp_path: Path) -> Iterator[GatewayProcess]:
    """Not started yet."""
    gateway = GatewayProcess(process_guard, tmp_path, rabbit.url("gateway"))
    yield gateway
    gateway.client.close()


@pytest.fixture
def publisher(rabbit: RabbitServer) -> Iterator[ThreadedPublisher]:
    publisher = ThreadedPublisher(rabbit.url("worker"), "test.worker")
    publisher.start()
    yield publisher
    publisher.stop()


def simulated(gateway: GatewayProcess) -> dict[str, Any]:
    listed = gateway.client.get("/api/v1/models").json()["models"]
    return next(model for model in listed if model["id"] == "simulated")


def report(publisher: ThreadedPublisher, worker: str) -> None:
    publisher.publish(worker_report(make_report(worker=worker, at=utc_now(), capacity_mb=1150)), timeout=SECONDS)


def own_queues(rabbit: RabbitServer) -> list[dict[str, Any]]:
    """The queues that gateways made for themselves."""
    rows = rabbit.listing("queues", "name", "arguments")
    return [row for row in rows if row["name"].startswith("gateway.") and row["name"] != GATEWAY_LEDGER]


def test_reports_are_heard_and_heard_again_after_the_connection_broke(
    gateway: GatewayProcess, publisher: ThreadedPublisher, rabbit: RabbitServer
) -> None:
    running = gateway.spawn()
    until(gateway.ready, SECONDS, f"the gateway (see {gateway.log})")
    assert simulated(gateway)["workers"] == 0

    def heard(worker: str, workers: int) -> bool:
        report(publisher, worker)
        return bool(simulated(gateway)["workers"] == workers)

    until(lambda: heard("one", 1), SECONDS, "the first worker")
    answer = gateway.client.post("/generate", json={"prompt": "a lake", "width": 256, "height": 256})
    assert (answer.status_code, answer.json()["code"]) == (422, "exceeds_memory")
    rabbit.close_connections()
    until(gateway.ready, SECONDS, "the gateway to be back")
    until(lambda: publisher.connected, SECONDS, "the publisher to be back")
    until(lambda: heard("two", 2), SECONDS, "the second worker")
    (queue,) = own_queues(rabbit)
    arguments = dict(tuple(argument[::2]) for argument in queue["arguments"])
    # RabbitMQ 4 says which type it made the queue of, 3.10 does not.
    assert arguments.pop("x-queue-type", "classic") == "classic"
    assert arguments == {"x-max-length": 256, "x-overflow": "drop-head"}
    gateway.guard.stop(running)
    until(
        lambda: not own_queues(rabbit),
        SECONDS,
        "the queue to go with its gateway",
    )


def test_a_gateway_that_cannot_listen_accepts_tasks_all_the_same(gateway: GatewayProcess, rabbit: RabbitServer) -> None:
    with rabbit.connect() as connection:
        connection.channel().exchange_delete(WORKERS)
    try:
        running = gateway.spawn()
        until(gateway.ready, SECONDS, f"the gateway (see {gateway.log})")
        until(lambda: "amqp_connection_lost" in gateway.log.read_text(), SECONDS, "the refusal to be logged")
        assert gateway.client.post("/generate", json={"prompt": "a lake"}).status_code == 202
        assert rabbit.depth(work_queue("simulated")) == 1
        gateway.guard.stop(running)
    finally:
        with rabbit.connect() as connection:
            connection.channel().exchange_declare(WORKERS, "topic", durable=True)
