"""``python -m infra.compose.prepare``: renders what the servers of a stack of containers read at their start.

Each server gets a folder of its own, which is a volume of its own, so that none sees the secrets of another. Standard
library only.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from infra.nginx.entrance import Entrance, Named, nginx_conf
from infra.redis.conf import redis_conf
from infra.seaweedfs.server import identities, key_names
from shared.messaging.definitions import render_definitions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

BROKER_USERS: Final = ("gateway", "worker", "status", "operator")
SERVERS: Final = ("rabbitmq", "seaweedfs", "redis", "nginx")
ENTRANCE_PORT: Final = 8080
REDIS_PORT: Final = 6379
# The network's own name server, at the same address in every container.
_RESOLVER: Final = "127.0.0.11"
_TEMPORARY: Final = Path("/tmp")  # noqa: S108 - a tmpfs of the container


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """What the files are made from."""

    models: Sequence[str]
    secrets: Path  # one file for each

    def files(self, servers: Sequence[str] = SERVERS) -> Iterator[tuple[str, str]]:
        """Each file's name below the output folder, and its text. Only the secrets of these servers are read."""
        makers: dict[str, tuple[str, Callable[[], str]]] = {
            "rabbitmq": ("definitions.json", self._definitions),
            "seaweedfs": ("identities.json", self._identities),
            "redis": ("redis.conf", self._redis),
            "nginx": ("nginx.conf", self._nginx),
        }
        for server in servers:
            name, make = makers[server]
            yield f"{server}/{name}", make()

    def _definitions(self) -> str:
        users = {user: self._secret(f"amqp-{user}") for user in BROKER_USERS}
        return json.dumps(render_definitions(self.models, users), indent=2)

    def _identities(self) -> str:
        return identities({name: self._secret(name) for name in key_names()})

    def _redis(self) -> str:
        password = self._secret("redis")
        return redis_conf(bind="0.0.0.0", port=REDIS_PORT, folder=Path("/data"), password=password)

    def _nginx(self) -> str:
        services = Named(gateway="gateway:8000", status_api="status-api:8000", resolver=_RESOLVER)
        return nginx_conf(Entrance(listen=str(ENTRANCE_PORT), services=services, run=_TEMPORARY))

    def _secret(self, name: str) -> str:
        return (self.secrets / name).read_text(encoding="utf-8").strip()


def write(stack: Stack, folder: Path, servers: Sequence[str] = SERVERS) -> None:
    """Write every file. Each server's user differs, so all may read them: its volume is what keeps others away."""
    for name, text in stack.files(servers):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}")
        temporary.write_text(text, encoding="utf-8")
        temporary.chmod(0o444)
        temporary.replace(path)


def main(arguments: Sequence[str]) -> int:
    """Write the files. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="infra.compose.prepare", description=__doc__)
    parser.add_argument("--models", default="", help="ids of the models, comma-separated; RabbitMQ's need them")
    parser.add_argument("--only", choices=SERVERS, help="render for one server alone, from its own secrets")
    parser.add_argument("--secrets", type=Path, default=Path("/run/secrets"), help="folder of the secrets")
    parser.add_argument("--out", type=Path, default=Path("/rendered"), help="folder to write to")
    options = parser.parse_args(arguments)
    models = [part.strip() for part in options.models.split(",") if part.strip()]
    servers = SERVERS if options.only is None else (options.only,)
    if not models and "rabbitmq" in servers:
        parser.error("--models names no model")
    write(Stack(models=models, secrets=options.secrets), options.out, servers)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
