"""Callbacks that are owed in a real database, secrets in a real store, and the sender in threads or as a process."""

from __future__ import annotations

import os
import sys
import threading
import time
import urllib.request
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from services.status.store.database import open_database
from services.status.store.sql import open_store
from services.status.webhooks.courier import Courier
from services.status.webhooks.crowd import Crowd, Limits
from services.status.webhooks.loop import Pace, Sender
from services.status.webhooks.metrics import WebhookMetrics
from services.status.webhooks.secrets import SigningSecrets
from shared.auth.bootstrap import key_reader
from shared.auth.store.sql import open_store as open_tenants
from shared.clock import utc_now
from shared.domain.outbound import OutboundPolicy, parse_networks
from shared.domain.task import EventType
from shared.http.outbound import Outbound, Patience
from shared.ids import new_task_id
from shared.lifecycle import StopSignal
from tests.support.builders import make_event, make_task
from tests.support.ports import free_port
from tests.support.tenants import administration
from tests.support.waiting import until
from tests.support.worker_process import CHECKOUT

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from services.status.webhooks.deliveries import Delivery
    from tests.support.processes import ProcessGuard

TENANT: Final = "acme"
_ALL_PORTS: Final = frozenset(range(1, 65536))


class CallbackSite:
    """The databases of one test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database_url = f"sqlite:///{folder}/status.db"
        self.tenants_url = f"sqlite:///{folder}/tenants.db"
        self.views = open_store(self.database_url)
        self._database = open_database(self.database_url)
        self.deliveries = self._database.deliveries
        self._tenants = open_tenants(self.tenants_url)
        self.operator = administration(self._tenants)
        self.secret = self.add_tenant(TENANT)

    def close(self) -> None:
        for store in (self.views, self._database, self._tenants):
            store.close()

    def add_tenant(self, tenant_id: str) -> str:
        """Make a tenant; returns its secret."""
        self.operator.create_tenant(tenant_id, "standard")
        return self.operator.create_webhook_secret(tenant_id).text

    def owe(self, *urls: str, tenant_id: str = TENANT) -> list[str]:
        """A task for each URL, which has just ended. Returns their ids, once the callbacks are owed."""
        # The builder lets a task take some seconds.
        submitted_at = utc_now() - timedelta(seconds=5)
        tasks = [
            make_task(task_id=new_task_id(), tenant_id=tenant_id, callback=url, submitted_at=submitted_at)
            for url in urls
        ]
        self.views.apply_events([make_event(EventType.SUCCEEDED, task) for task in tasks], seen_until=utc_now())
        return [task.task_id for task in tasks]

    def delivery(self, task_id: str, tenant_id: str = TENANT) -> Delivery:
        (delivery,) = self.deliveries.of_task(task_id, tenant_id)
        return delivery

    def ended(self, task_id: str) -> Delivery:
        """The delivery of a task once it is not pending any more."""
        until(lambda: self.delivery(task_id).state != "pending", 30, f"the end of the callback of {task_id}")
        return self.delivery(task_id)

    @contextmanager
    def sending(
        self,
        *,
        resolver: Callable[[str], Sequence[str]] = lambda _name: ["127.0.0.1"],
        patience: Patience | None = None,
        limits: Limits | None = None,
    ) -> Iterator[WebhookMetrics]:
        """A sender in this process. Every name leads here."""
        limits, metrics = limits or Limits(slots=16, tenant=16, host=16), WebhookMetrics()
        secrets = SigningSecrets(key_reader(self.tenants_url), utc_now, time.monotonic)
        policy = OutboundPolicy(ports=_ALL_PORTS, allowed_networks=parse_networks("127.0.0.1/32"))
        courier = Courier(
            store=self.deliveries,
            secrets=secrets,
            outbound=Outbound(policy, patience, resolver=resolver),
            clock=utc_now,
            draw=lambda: 0.0,
        )
        sender = Sender(
            store=self.deliveries,
            courier=courier,
            crowd=Crowd(limits),
            metrics=metrics,
            clock=utc_now,
            pace=Pace(look=0.02, hold=30.0),
        )
        stop = StopSignal()
        thread = threading.Thread(target=sender.run, args=(stop, limits.slots), daemon=True)
        thread.start()
        try:
            yield metrics
        finally:
            stop.request()
            thread.join(30)
            assert not thread.is_alive()

    def spawn(self, guard: ProcessGuard, name: str = "sender", **changes: str) -> SenderProcess:
        """A sender as it is run."""
        environment = {
            "PATH": os.environ["PATH"],
            "ATELIER_DATABASE_URL": self.database_url,
            "ATELIER_TENANTS_URL": self.tenants_url,
            "ATELIER_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
            "ATELIER_WEBHOOK_PORTS": "1-65535",
            "ATELIER_WEBHOOK_LOOK_SECONDS": "0.05",
            "ATELIER_WEBHOOK_TIMEOUT_SECONDS": "1",
            **changes,
        }
        return SenderProcess(guard, self.folder / f"{name}.log", environment)


class SenderProcess:
    """``python -m services.status.webhooks``."""

    def __init__(self, guard: ProcessGuard, log: Path, environment: dict[str, str]) -> None:
        self._guard = guard
        self.port = free_port()
        environment = {**environment, "ATELIER_METRICS_PORT": str(self.port)}
        command = [sys.executable, "-m", "services.status.webhooks"]
        self.process: subprocess.Popen[bytes] = guard.spawn(command, log=log, env=environment, cwd=CHECKOUT)
        until(lambda: self._get("/readyz"), 30, f"a sender (see {log})")

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = [line for line in self._get("/metrics").splitlines() if line.startswith(name)]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def kill(self) -> None:
        self._guard.kill(self.process)

    def _get(self, path: str) -> str:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""


def named(name: str, url: str) -> str:
    """The same URL by a name."""
    return f"http://{name}:{urlsplit(url).port}/hook"
