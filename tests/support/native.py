"""A whole native stack for tests: its own folder and ports, and what tests do to it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import httpx
import psutil

from infra.native.config import CHECKOUT, StackSettings
from infra.native.ports import taken
from infra.native.rabbitmq import ADMINISTRATOR
from infra.native.stack import Stack
from shared.config import StorageSettings, load_settings
from shared.messaging.topology import VHOST
from shared.storage.s3 import S3Store
from tests.support.ports import free_ports

if TYPE_CHECKING:
    from pathlib import Path

# Below the range from which the kernel gives ports to outgoing connections, and apart from the default stack's.
_BASE_PORTS: Final = range(20100, 30000, 100)
_SECONDS: Final = 30.0
UNBOUNDED_PLANS: Final = CHECKOUT / "bench" / "plans.toml"


class NativeStack:
    """A running stack, seen from outside and from its store."""

    def __init__(self, folder: Path, workers: tuple[str, ...], **settings: Any) -> None:  # noqa: ANN401 - of StackSettings
        (public_port,) = free_ports(1)
        self.stack = _first_free(run_dir=folder, workers=workers, public_port=public_port, **settings)
        self._client = httpx.Client(base_url=self.stack.settings.base_url, timeout=_SECONDS)

    def start(self) -> None:
        """Bring it up."""
        self.stack.up()
        self.store = S3Store(load_settings(StorageSettings, self.stack.environment_of("status-consumer")))
        self._client.headers["Authorization"] = f"Bearer {self.stack.demo_info.keys['standard']}"

    def stop(self) -> None:
        """Take it down."""
        self._client.close()
        self.stack.down()

    def post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        """POST JSON through the public entrance."""
        return self._client.post(path, json=body)

    def post_keyed(self, path: str, body: dict[str, Any]) -> httpx.Response:
        """POST with an Idempotency-Key of its own: no repeat of an equal request before it."""
        return self._client.post(path, json=body, headers={"Idempotency-Key": uuid4().hex})

    def post_as(self, key: str, path: str, body: dict[str, Any]) -> httpx.Response:
        """POST with another of the stack's keys."""
        return self._client.post(path, json=body, headers=self._headers(key))

    def get_as(self, key: str, path: str, **query: str | int) -> httpx.Response:
        """GET with another of the stack's keys."""
        return self._client.get(path, params=query, headers=self._headers(key))

    def get(self, path: str, **query: str | int) -> httpx.Response:
        """GET through the public entrance."""
        return self._client.get(path, params=query)

    def administrator_url(self) -> str:
        """The AMQP address of the user who may do anything."""
        password = self.stack.site.secrets.value(f"amqp-{ADMINISTRATOR}")
        return f"amqp://{ADMINISTRATOR}:{password}@127.0.0.1:{self.stack.site.ports['rabbitmq']}/{VHOST}"

    def _headers(self, key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.stack.demo_info.keys[key]}"}

    def pid(self, program: str) -> int:
        """The pid of a program."""
        return self.stack.pid(program)

    def child_of(self, program: str) -> int:
        """The pid of a worker's child."""
        (child,) = psutil.Process(self.pid(program)).children()
        return child.pid

    def restart(self, program: str) -> None:
        """Stop a program, start it, wait until it is ready."""
        self.stack.restart(program)

    def queue_depths(self) -> dict[str, int]:
        """Every queue that is not empty, with its messages, ready and unacked."""
        listing = self.stack.rabbitmqctl("--quiet", "list_queues", "--vhost", VHOST, "name", "messages")
        rows = (line.split() for line in listing.splitlines()[1:])
        return {row[0]: int(row[1]) for row in rows if len(row) == 2 and int(row[1])}


def _first_free(**given: Any) -> Stack:  # noqa: ANN401 - of StackSettings
    # Test processes side by side begin to look at different places: between a look and a start is a moment.
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 4
    for base_port in _BASE_PORTS[number * len(_BASE_PORTS) // 4 :]:
        settings = StackSettings(
            base_port=base_port,
            plans_file=UNBOUNDED_PLANS,
            environment={
                # Tests ask for the same picture again, and mean it.
                "ATELIER_REPEAT_WINDOW_SECONDS": "0",
                # They are called back on this machine.
                "ATELIER_WEBHOOK_ALLOWED_NETWORKS": "127.0.0.0/8",
                "ATELIER_WEBHOOK_PORTS": "1024-65535",
            },
            **given,
        )
        stack = Stack(settings)
        if not taken(stack.site.ports):
            return stack
    message = "no free range of ports"
    raise AssertionError(message)
