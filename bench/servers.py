"""The suite that benchmarks run against, and further gunicorn servers under the gateway's own settings."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx

from infra.native.config import StackSettings
from infra.native.credentials import tenants_url
from infra.native.ports import taken
from infra.native.stack import Stack
from shared.auth.administration import Administration
from shared.auth.plans import load_plans
from shared.auth.store.sql import open_store
from shared.clock import utc_now
from shared.messaging.topology import VHOST

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HOST: Final = "127.0.0.1"
BENCH_VHOST: Final = "bench"
_ROOT: Final = Path(__file__).parents[1]
UNBOUNDED_PLANS: Final = _ROOT / "bench" / "plans.toml"
_START_SECONDS: Final = 30.0


class Bench:
    """A native stack of its own, with one simulated worker."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stack = _stack(folder)
        self._has_vhost = False

    @property
    def url(self) -> str:
        """The public entrance."""
        return self.stack.settings.base_url

    @property
    def gateway_url(self) -> str:
        """The first gateway, past Nginx."""
        return f"http://{HOST}:{self.stack.site.ports.gateways[0]}"

    @property
    def key(self) -> str:
        """An API key."""
        return str(self.stack.demo_info.keys["standard"])

    @property
    def headers(self) -> dict[str, str]:
        """What a submit needs."""
        return {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}

    def key_of(self, tenant: str, plan: str) -> str:
        """A key of a tenant, which is made when there is none; the gateways know it at once."""
        site = self.stack.site
        store = open_store(tenants_url(site.layout))
        try:
            pepper = site.secrets.value("key-pepper")
            operator = Administration(store, load_plans(UNBOUNDED_PLANS), pepper, clock=utc_now, actor="bench")
            operator.ensure_tenant(tenant, plan)
            return operator.create_key(tenant).text
        finally:
            store.close()

    def client(self) -> httpx.Client:
        """A client of the public entrance."""
        return httpx.Client(base_url=self.url, headers=self.headers, timeout=120)

    def environment(self, program: str) -> dict[str, str]:
        """The environment of one of the stack's programs."""
        return self.stack.environment_of(program)

    def free_port(self) -> int:
        """A port of the stack's range that no program has."""
        self._next_port = getattr(self, "_next_port", self.stack.settings.base_port + 90) + 1
        return self._next_port

    def purge(self) -> None:
        """Empty the work and event queues."""
        for queue in ("tasks.simulated", "tasks.tiny-newbie", "status.events", "gateway.ledger"):
            if queue in self.depths():
                self.stack.rabbitmqctl("--quiet", "purge_queue", "--vhost", VHOST, queue)
        if self._has_vhost and "celery" in self.depths(BENCH_VHOST):
            # Left to grow it would slow down whoever is measured after it.
            self.stack.rabbitmqctl("--quiet", "purge_queue", "--vhost", BENCH_VHOST, "celery")

    def depths(self, vhost: str = VHOST) -> dict[str, int]:
        """Messages in every queue, ready and unacked."""
        text = self.stack.rabbitmqctl("--quiet", "list_queues", "--vhost", vhost, "name", "messages")
        rows = [line.split() for line in text.splitlines()[1:]]
        return {row[0]: int(row[1]) for row in rows}

    def bench_vhost(self) -> str:
        """A vhost where a user of the benchmark may do anything; returns its AMQP URL."""
        commands = (
            ("add_vhost", BENCH_VHOST),
            ("add_user", "bench", "bench"),
            ("set_permissions", "-p", BENCH_VHOST, "bench", ".*", ".*", ".*"),
        )
        for command in () if self._has_vhost else commands:
            self.stack.rabbitmqctl("--quiet", *command)
        self._has_vhost = True
        return f"amqp://bench:bench@{HOST}:{self.stack.site.ports['rabbitmq']}/{BENCH_VHOST}"

    def logged(self, program: str, event: str) -> Iterator[dict[str, Any]]:
        """The JSON lines of one event in a program's log."""
        import orjson  # noqa: PLC0415 - only a few benchmarks read logs

        with (self.stack.site.layout.logs / f"{program}.log").open("rb") as file:
            for line in file:
                if event.encode() in line and line.startswith(b"{"):
                    record = orjson.loads(line)
                    if record.get("message") == event:
                        yield record


def _stack(folder: Path) -> Stack:
    for base_port in range(31100, 40000, 200):
        settings = StackSettings(
            run_dir=folder,
            base_port=base_port,
            public_port=base_port + 99,
            workers=("simulated",),
            gateways=2,
            plans_file=UNBOUNDED_PLANS,
            environment={"ATELIER_MAX_WAITING": "100000000"},
        )
        stack = Stack(settings)
        if not taken(stack.site.ports):
            return stack
    message = "no free range of ports"
    raise RuntimeError(message)


@contextmanager
def gunicorn(application: str, port: int, environment: Mapping[str, str], log: Path) -> Iterator[str]:
    """Serve an application factory by one gevent worker, as the gateway is served; yields its address."""
    command = [
        *(sys.executable, "-m", "gunicorn", "--worker-class", "gevent", "--workers", "1", "--no-control-socket"),
        *("--worker-tmp-dir", "/dev/shm", "--keep-alive", "75", "--bind", f"{HOST}:{port}", application),  # noqa: S108 - names are made by mkstemp
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=_ROOT, env={**os.environ, **environment}, stdout=output, stderr=output)
    url = f"http://{HOST}:{port}"
    try:
        _wait_for(url, process, log)
        yield url
    finally:
        process.terminate()
        process.wait(20)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            httpx.get(url, timeout=1)
        except httpx.HTTPError:
            time.sleep(0.05)
        else:
            return
    message = f"{url} did not start: {log.read_text()[-2000:]}"
    raise RuntimeError(message)
