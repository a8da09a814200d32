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

from infra.nginx.entrance import Entrance, Named, Tls, nginx_conf
from infra.redis.conf import redis_conf
from infra.seaweedfs.server import identities, key_names
from shared.messaging.definitions import render_definitions
from shared.messaging.topology import QueueType

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BROKER_USERS: Final = ("gateway", "worker", "status", "operator")
ENTRANCE_PORT: Final = 8080
HEALTH_PORT: Final = 8081
_CA_FILE: Final = "ca.crt"
REDIS_PORT: Final = 6379
# The network's own name server, at the same address in every container.
_RESOLVER: Final = "127.0.0.11"
_TEMPORARY: Final = Path("/tmp")  # noqa: S108 - a tmpfs of the container


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """What the files are made from."""

    models: Sequence[str]
    secrets: Path  # one file for each
    tls: bool = False
    queue_type: QueueType = QueueType.CLASSIC

    def files(self) -> Iterator[tuple[str, str]]:
        """Each file's name below the output folder, and its text."""
        users = {user: self._secret(f"amqp-{user}") for user in BROKER_USERS}
        document = render_definitions(self.models, users, self.queue_type)
        yield "rabbitmq/definitions.json", json.dumps(document, indent=2)
        yield "seaweedfs/identities.json", identities({name: self._secret(name) for name in key_names()})
        password = self._secret("redis")
        yield "redis/redis.conf", redis_conf(bind="0.0.0.0", port=REDIS_PORT, folder=Path("/data"), password=password)
        services = Named(gateway="gateway:8000", status_api="status-api:8000", resolver=_RESOLVER)
        tls = _tls(Path("/run/secrets")) if self.tls else None
        entrance = Entrance(listen=str(ENTRANCE_PORT), services=services, run=_TEMPORARY, tls=tls)
        yield "nginx/nginx.conf", nginx_conf(entrance)

    def _secret(self, name: str) -> str:
        return (self.secrets / name).read_text(encoding="utf-8").strip()


def _tls(folder: Path) -> Tls:
    """With the certificates where they lie in nginx's container."""
    return Tls(
        certificate=folder / "nginx.crt",
        key=folder / "nginx.key",
        ca_file=folder / _CA_FILE,
        health=f"127.0.0.1:{HEALTH_PORT}",
    )


def write(stack: Stack, folder: Path) -> None:
    """Write every file. Each server's user differs, so all may read them: its volume is what keeps others away."""
    for name, text in stack.files():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}")
        temporary.write_text(text, encoding="utf-8")
        temporary.chmod(0o444)
        temporary.replace(path)


def main(arguments: Sequence[str]) -> int:
    """Write the files. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="infra.compose.prepare", description=__doc__)
    parser.add_argument("--models", required=True, help="ids of the models, comma-separated")
    parser.add_argument("--queue-type", type=QueueType, choices=list(QueueType), default=QueueType.CLASSIC)
    parser.add_argument("--secrets", type=Path, default=Path("/run/secrets"), help="folder of the secrets")
    parser.add_argument("--out", type=Path, default=Path("/rendered"), help="folder to write to")
    options = parser.parse_args(arguments)
    models = [part.strip() for part in options.models.split(",") if part.strip()]
    # compose.tls.yml adds this one to the secrets.
    tls = (options.secrets / _CA_FILE).exists()
    stack = Stack(models=models, secrets=options.secrets, tls=tls, queue_type=options.queue_type)
    write(stack, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
