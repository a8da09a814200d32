"""A private RabbitMQ; ``rabbit_container`` has it in a container."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pika
from pika.exceptions import AMQPError

from shared.messaging.definitions import DEFAULT_MODELS, render_definitions
from shared.messaging.topology import VHOST, QueueType, topology
from tests.support.ports import LOOPBACK, free_ports
from tests.support.servers import Server, ServerProcess
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pika.adapters.blocking_connection import BlockingConnection

    from tests.support.processes import ProcessGuard

PROGRAMS: Final = Path("/usr/lib/rabbitmq/bin")
ADMIN: Final = "admin"
PASSWORDS: Final = {name: f"{name}-password" for name in ("gateway", "worker", "status", "operator", ADMIN)}
# Two schedulers, asleep when idle.
ERLANG_OPTIONS: Final = "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none"
_START_SECONDS: Final = 60
_CTL_SECONDS: Final = 60


class RabbitServer(Server):
    """One broker with the project's topology. ``admin`` is a user that only tests have, with every right."""

    name = "RabbitMQ"
    models: tuple[str, ...]
    queue_type: QueueType
    folder: Path

    @abstractmethod
    def ctl(self, *arguments: str) -> str:
        """Run rabbitmqctl (about a second) and return what it printed."""

    @abstractmethod
    def lose_everything(self) -> None:
        """``kill -9``, a new disk, and start: the topology is there again, and no message."""

    def url(self, user: str, **options: str | int) -> str:
        """The AMQP URL of a user (gateway, worker, status, operator or admin), with pika's URL options."""
        query = "&".join(f"{key}={value}" for key, value in options.items())
        base = f"amqp://{user}:{PASSWORDS[user]}@{LOOPBACK}:{self.port}/{VHOST}"
        return f"{base}?{query}" if query else base

    def version(self) -> str:
        """The version that the broker greets its clients with."""
        with self.connect() as connection:
            greeting: dict[str, bytes | str] = vars(connection)["_impl"].server_properties
        version = greeting["version"]
        return version.decode() if isinstance(version, bytes) else version

    def listing(self, what: str, *columns: str) -> list[dict[str, Any]]:
        """What ``rabbitmqctl list_<what>`` knows of the project's vhost."""
        scope = () if what in {"users", "vhosts", "connections"} else ("--vhost", VHOST)
        text = self.ctl(f"list_{what}", *scope, "--quiet", "--formatter", "json", *columns)
        rows: list[dict[str, Any]] = json.loads(text)
        return rows

    def close_connections(self) -> None:
        """The broker closes every connection, as an operator would."""
        self.ctl("close_all_connections", "--global", "closed by a test")

    def connect(self, user: str = ADMIN) -> BlockingConnection:
        """A plain connection, for looking and for provoking."""
        return pika.BlockingConnection(pika.URLParameters(self.url(user)))

    def depth(self, queue: str) -> int:
        """How many messages are ready in a queue, exactly and now."""
        with self.connect() as connection:
            return int(connection.channel().queue_declare(queue, passive=True).method.message_count)

    def purge(self) -> None:
        """Empty every queue of the topology."""
        with self.connect() as connection:
            channel = connection.channel()
            for queue in topology(self.models, self.queue_type).queues:
                channel.queue_purge(queue.name)

    def write_configuration(self, definitions_file: str) -> None:
        """Into the folder: ``rabbitmq.conf``, and what the broker reads as ``definitions_file`` when it starts."""
        self.folder.mkdir(parents=True, exist_ok=True)
        document = render_definitions(self.models, PASSWORDS, self.queue_type)
        document["permissions"].append({"user": ADMIN, "vhost": VHOST, "configure": ".*", "write": ".*", "read": ".*"})
        (self.folder / "definitions.json").write_text(json.dumps(document))
        (self.folder / "enabled_plugins").write_text("[].\n")
        (self.folder / "rabbitmq.conf").write_text(
            f"load_definitions = {definitions_file}\nloopback_users = none\n"
            "log.file.level = info\ndisk_free_limit.absolute = 50MB\n"
        )

    def answers(self) -> bool:
        """Whether it takes connections."""
        try:
            self.connect().close()
        except (AMQPError, OSError):
            return False
        return True


class RabbitProcess(ServerProcess, RabbitServer):
    """RabbitMQ from the distribution's package: own node name, ports, EPMD, cookie and folders."""

    def __init__(
        self,
        folder: Path,
        guard: ProcessGuard,
        models: Sequence[str] = DEFAULT_MODELS,
        queue_type: QueueType = QueueType.CLASSIC,
    ) -> None:
        self.models = tuple(models)
        self.queue_type = queue_type
        self.folder = folder
        self._guard = guard
        self.port, self._dist_port, self._epmd_port = free_ports(3)
        self._env = self._environment()
        self._epmd: subprocess.Popen[bytes] | None = None
        self.write_configuration(str(folder / "definitions.json"))

    def ctl(self, *arguments: str) -> str:
        """Run rabbitmqctl (about a second) and return what it printed."""
        command = [str(PROGRAMS / "rabbitmqctl"), "--node", self._env["RABBITMQ_NODENAME"], *arguments]
        done = subprocess.run(
            command, env=self._env, capture_output=True, text=True, timeout=_CTL_SECONDS, check=False, cwd=self.folder
        )
        if done.returncode != 0:
            message = f"rabbitmqctl {' '.join(arguments)}: {done.stdout}{done.stderr}"
            raise AssertionError(message)
        return done.stdout

    def start(self) -> None:
        """Start the broker and wait until it takes connections; what was persisted is there again."""
        if self._epmd is None:
            # Were EPMD left to the broker's start script, it would daemonise out of our reach.
            self._epmd = self._guard.spawn(
                ["epmd", "-port", str(self._epmd_port), "-address", LOOPBACK], log=self.folder / "epmd.log"
            )
        self._process = self._guard.spawn(
            [PROGRAMS / "rabbitmq-server"], log=self.folder / "output.log", env=self._env, cwd=self.folder
        )
        until(self._started, _START_SECONDS, f"RabbitMQ on port {self.port} (see {self.folder})")

    def lose_everything(self) -> None:
        """``kill -9``, a new disk, and start: the topology is there again, and no message."""
        self.kill()
        shutil.rmtree(self.folder / "data")
        self.start()

    def stop(self) -> None:
        """End everything, without grace."""
        self.kill()
        if self._epmd is not None:
            self._guard.kill(self._epmd)
            self._epmd = None

    def _started(self) -> bool:
        self._must_run(self.folder / "output.log")
        return self.answers()

    def _environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(self.folder),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "RABBITMQ_NODENAME": f"test-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": LOOPBACK,
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(self.folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "enabled_plugins"),
            "RABBITMQ_MNESIA_BASE": str(self.folder / "data"),
            "RABBITMQ_LOG_BASE": str(self.folder / "log"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(self.folder / "generated"),
            "RABBITMQ_PID_FILE": str(self.folder / "pid"),
            # No distribution port on public interfaces.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (f"{ERLANG_OPTIONS} -kernel inet_dist_use_interface {{127,0,0,1}}"),
            # Makes the start script exec the broker in its own place, so that the process we hold is the broker.
            "RUNNING_UNDER_SYSTEMD": "true",
        }
