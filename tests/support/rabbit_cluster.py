"""Three RabbitMQ nodes in containers, as ``infra/rabbitmq/cluster/compose.yml`` has them, for tests that end nodes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

import pika
from pika.exceptions import AMQPError

from shared.messaging.definitions import DEFAULT_MODELS, render_definitions
from shared.messaging.topology import VHOST, QueueType
from tests.support.ports import LOOPBACK, free_ports
from tests.support.waiting import until

if TYPE_CHECKING:
    from pika.adapters.blocking_connection import BlockingConnection

COMPOSE: Final = Path(__file__).parents[2] / "infra" / "rabbitmq" / "cluster" / "compose.yml"
NODES: Final = ("rabbit-1", "rabbit-2", "rabbit-3")
_ADMIN: Final = "admin"
_PASSWORDS: Final = {name: f"{name}-password" for name in ("gateway", "worker", "status", "operator", _ADMIN)}
_CTL_SECONDS: Final = 60
_AT_ONCE: Final = 500
_START_SECONDS: Final = 600


class RabbitCluster:
    """A broker with quorum queues on three nodes."""

    def __init__(self, folder: Path) -> None:
        self._project = f"atelier-test-cluster-{uuid4().hex[:8]}"
        self._ports = dict(zip(NODES, free_ports(len(NODES)), strict=True))
        ports = {f"ATELIER_CLUSTER_PORT_{node[-1]}": str(port) for node, port in self._ports.items()}
        self._environment = {**os.environ, **ports, "ATELIER_CLUSTER_DIR": str(folder)}
        self._watch: subprocess.Popen[bytes] | None = None
        self._write(folder)

    def start(self) -> None:
        """Start it and wait until every queue is on all three nodes."""
        self._watch = subprocess.Popen(
            ["/bin/sh", "-c", f"read -r _; {' '.join(self._compose('down', '--volumes', '--timeout', '1'))}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self._environment,
            start_new_session=True,
        )
        self._run(*self._compose("up", "--detach"))
        self.wait_whole()

    def stop(self) -> None:
        """End and remove it, with its volumes."""
        if self._watch is not None:
            self._watch.communicate()  # its input ends, and so does the cluster
            self._watch = None

    def url(self, user: str) -> str:
        """The address of all nodes."""
        hosts = ",".join(f"{LOOPBACK}:{port}" for port in self._ports.values())
        return f"amqp://{user}:{_PASSWORDS[user]}@{hosts}/{VHOST}"

    def kill(self, node: str) -> None:
        """``kill -9`` to every process of a node."""
        self._run("docker", "kill", self._container(node))

    def restart(self, node: str) -> None:
        """Start a node that was killed."""
        self._run("docker", "start", self._container(node))

    def freeze(self, node: str) -> None:
        """Stop a node where it is: its connections stay open and nobody is answered."""
        self._run("docker", "pause", self._container(node))

    def thaw(self, node: str) -> None:
        """Let it go on."""
        self._run("docker", "unpause", self._container(node))

    def queues(self, node: str = NODES[0]) -> list[dict[str, Any]]:
        """Every queue with its leader, members and those of them that are up, as a node sees it."""
        columns = ("name", "type", "leader", "members", "online")
        text = self._ctl(
            node, "list_queues", "--timeout", "20", "--vhost", VHOST, "--quiet", "--formatter", "json", *columns
        )
        rows: list[dict[str, Any]] = json.loads(text)
        return rows

    def leader(self, queue: str) -> str:
        """The node that leads a queue."""

        def agreed() -> str | None:
            # Every node tells of the queues that it leads, and for a moment two may.
            leaders = {str(row["leader"]) for row in self.queues() if row["name"] == queue}
            return leaders.pop().partition("@")[2] if len(leaders) == 1 else None

        return str(until(agreed, _CTL_SECONDS, f"one leader of {queue}"))

    def status(self, node: str) -> dict[str, Any]:
        """What a node says of itself."""
        status: dict[str, Any] = json.loads(self._ctl(node, "status", "--quiet", "--formatter", "json"))
        return status

    def memory_limit(self, node: str) -> int:
        """How much memory the engine lets a node have."""
        return int(self._run("docker", "inspect", "--format", "{{.HostConfig.Memory}}", self._container(node)))

    def wait_whole(self) -> None:
        """Wait until every node serves and every queue is on all of them."""
        until(self._is_whole, _START_SECONDS, "every queue to be on three nodes")

    def drain(self, queue: str, seconds: float = 120) -> list[bytes]:
        """Take everything out of a queue."""
        bodies: list[bytes] = []

        def finished() -> bool:
            with self.connect() as connection:
                channel = connection.channel()
                channel.basic_qos(prefetch_count=_AT_ONCE)
                for method, _, body in channel.consume(queue, inactivity_timeout=2):
                    if method is None or method.delivery_tag is None or body is None:
                        break
                    bodies.append(body)
                    channel.basic_ack(method.delivery_tag)
                channel.cancel()
                return channel.queue_declare(queue, passive=True).method.message_count == 0

        until(finished, seconds, f"{queue} to be empty")
        return bodies

    def connect(self) -> BlockingConnection:
        """A plain connection to the first node that has one."""
        urls = [f"amqp://{_ADMIN}:{_PASSWORDS[_ADMIN]}@{LOOPBACK}:{port}/{VHOST}" for port in self._ports.values()]
        return pika.BlockingConnection([pika.URLParameters(url) for url in urls])

    def _is_whole(self) -> bool:
        try:
            rows = [self.queues(node) for node in NODES]
            for port in self._ports.values():
                pika.BlockingConnection(
                    pika.URLParameters(f"amqp://{_ADMIN}:{_PASSWORDS[_ADMIN]}@{LOOPBACK}:{port}/{VHOST}")
                ).close()
        except (AssertionError, AMQPError, OSError, subprocess.TimeoutExpired):
            return False
        durable = [row for seen in rows for row in seen if row["type"] == QueueType.QUORUM]
        return bool(durable) and all(len(row["members"]) == len(row["online"]) == len(NODES) for row in durable)

    def _ctl(self, node: str, *arguments: str) -> str:
        return self._run("docker", "exec", self._container(node), "rabbitmqctl", *arguments)

    def _container(self, node: str) -> str:
        return f"{self._project}-{node}-1"

    def _compose(self, *arguments: str) -> list[str]:
        return ["docker", "compose", "--project-name", self._project, "--file", str(COMPOSE), *arguments]

    def _run(self, *command: str) -> str:
        program = shutil.which(command[0])
        assert program is not None
        done = subprocess.run(
            [program, *command[1:]],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=_CTL_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            message = f"{' '.join(command)}: {done.stdout}{done.stderr}"
            raise AssertionError(message)
        return done.stdout

    def _write(self, folder: Path) -> None:
        document = render_definitions(DEFAULT_MODELS, _PASSWORDS, QueueType.QUORUM)
        document["permissions"].append({"user": _ADMIN, "vhost": VHOST, "configure": ".*", "write": ".*", "read": ".*"})
        for name, text in (("definitions.json", json.dumps(document)), ("erlang-cookie", uuid4().hex)):
            (folder / name).write_text(text)
            (folder / name).chmod(0o644)  # the containers' user must read it; the folder is ours alone
