"""Several gateway processes over one broker, one Redis and one ledger process."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from shared.clock import utc_now
from shared.contracts.base import decode
from shared.contracts.event import ended_event
from shared.contracts.task import TaskMessage
from shared.messaging import messages
from shared.messaging.publisher import ThreadedPublisher
from shared.messaging.topology import work_queue
from tests.integration.test_gateway_process import ROOT, GatewayProcess
from tests.support.builders import make_outcome
from tests.support.tenants import tenant_environment
from tests.support.waiting import until

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    import httpx

    from tests.support.processes import ProcessGuard
    from tests.support.rabbit import RabbitServer
    from tests.support.redis_server import RedisServer

PLANS: Final = """
[standard]
lane = "standard"
weight = 1.0
{rates}
concurrency = 8
queued = {queued}
gpu_seconds_per_day = {day}
max_pixels = 4096
max_frames = 1
models = "*"
"""
WORK: Final = work_queue("simulated")


class Replicas:
    """Gateways with the same tenants, plans, broker and Redis, and so many clients that ask at the same time."""

    def __init__(
        self,
        rabbit: RabbitServer,
        redis: RedisServer,
        guard: ProcessGuard,
        folder: Path,
        *,
        count: int = 2,
        clients: int = 32,
    ) -> None:
        self.rabbit, self.redis, self.guard, self.folder, self.clients = rabbit, redis, guard, folder, clients
        self.gateways = [GatewayProcess(guard, folder, rabbit.url("gateway")) for _ in range(count)]
        self.processes: list[subprocess.Popen[bytes]] = []
        self.tenants, (self.key,) = tenant_environment(folder, "acme")

    def start(self, *, rates: str = "", queued: int = 1000, day: float = 1e9, **settings: str) -> None:
        plans = self.folder / "plans.toml"
        plans.write_text(PLANS.format(rates=rates, queued=queued, day=day))
        changes = {
            **self.tenants,
            "ATELIER_PLANS_FILE": str(plans),
            "ATELIER_REDIS_URL": self.redis.url,
            # A machine that runs two gateways, a broker and their clients on two cores answers late at times.
            "ATELIER_REDIS_TIMEOUT_SECONDS": "1",
            # Every submit here is alike, and each shall count.
            "ATELIER_REPEAT_WINDOW_SECONDS": "0",
            **{f"ATELIER_{name}": value for name, value in settings.items()},
        }
        self.processes = [gateway.spawn(**changes) for gateway in self.gateways]
        for gateway in self.gateways:
            until(gateway.ready, 30, f"a gateway (see {gateway.log})")
        environment = {
            "PATH": gateway.environment["PATH"],
            "ATELIER_AMQP_URL": self.rabbit.url("gateway"),
            "ATELIER_REDIS_URL": self.redis.url,
        }
        command = [sys.executable, "-m", "services.gateway.ledger"]
        self.processes.append(self.guard.spawn(command, log=self.folder / "ledger.log", env=environment, cwd=ROOT))

    def submit(self, number: int = 0, **body: Any) -> httpx.Response:  # noqa: ANN401 - any field
        document = {"prompt": "a lake", "model": "simulated", "seed": 1, **body}
        client = self.gateways[number % len(self.gateways)].client
        return client.post("/api/v1/generate", json=document, headers={"X-API-Key": self.key})

    def submit_many(self, count: int) -> list[httpx.Response]:
        with ThreadPoolExecutor(self.clients) as pool:
            return list(pool.map(self.submit, range(count)))

    def stop(self) -> None:
        for gateway in self.gateways:
            gateway.client.close()
        for process in self.processes:
            self.guard.kill(process)

    def end_all(self) -> int:
        """Take every waiting task and tell that it succeeded, as a worker does."""
        publisher = ThreadedPublisher(self.rabbit.url("worker"), "test-worker")
        publisher.start()
        ended = 0
        with self.rabbit.connect() as connection:
            channel = connection.channel()
            while True:
                method, _, body = channel.basic_get(WORK, auto_ack=True)
                if method is None:
                    break
                task = decode(TaskMessage, body or b"")
                outcome = make_outcome(task=task, artifacts=(), started_at=utc_now(), ended_at=utc_now())
                publisher.publish(messages.event(ended_event(outcome)), timeout=10)
                ended += 1
        publisher.stop()
        return ended

    def open_tasks(self) -> int:
        return int(self.redis.client().hlen("atelier:ledger:tasks"))


def codes(answers: list[httpx.Response]) -> dict[str, int]:
    found: dict[str, int] = {}
    for answer in answers:
        code = "accepted" if answer.status_code == 202 else answer.json()["code"]
        found[code] = found.get(code, 0) + 1
    return found
