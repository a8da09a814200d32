"""RabbitMQ definitions from the topology.

``python -m shared.messaging.definitions [--check]`` writes the checked-in file. With ``--render FILE --models A,B
[--queue-type quorum] [--passwords FOLDER]`` it writes those of a broker, whose users' passwords lie in files
``amqp-<user>`` of that folder: the file then holds salted hashes of them and is the owner's alone to read.

Boot-time import overwrites policies and never a queue or an exchange that exists, and a blank node that imports a file
makes no default user or vhost (https://www.rabbitmq.com/docs/definitions).
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from shared.messaging.topology import MONITOR, PERMISSIONS, VHOST, QueueType, topology

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEFAULT_MODELS: Final = ("tiny-newbie", "simulated")
CHECKED_IN: Final = Path(__file__).parents[2] / "infra" / "rabbitmq" / "definitions.json"


def render_definitions(
    models: Sequence[str], users: Mapping[str, str] | None = None, queue_type: QueueType = QueueType.CLASSIC
) -> dict[str, Any]:
    """The definitions document for these models. ``users`` maps each service's user to its password.

    Without users the document holds the topology alone.
    """
    plan = topology(models, queue_type)
    document: dict[str, Any] = {
        "vhosts": [{"name": VHOST}],
        "exchanges": [
            {"name": e.name, "vhost": VHOST, "type": e.type, "durable": True, "auto_delete": False, "arguments": {}}
            for e in plan.exchanges
        ],
        "queues": [
            {"name": q.name, "vhost": VHOST, "durable": True, "auto_delete": False, "arguments": q.arguments}
            for q in plan.queues
        ],
        "bindings": [
            {
                "source": b.exchange,
                "vhost": VHOST,
                "destination": b.queue,
                "destination_type": "queue",
                "routing_key": b.routing_key,
                "arguments": {},
            }
            for b in plan.bindings
        ],
        "policies": [
            {"name": p.name, "vhost": VHOST, "pattern": p.pattern, "apply-to": "queues", "definition": p.definition}
            for p in plan.policies
        ],
    }
    if users:
        document["users"] = [_user(name, password) for name, password in users.items()]
        document["permissions"] = [
            {"user": p.user, "vhost": VHOST, "configure": p.configure, "write": p.write, "read": p.read}
            for p in (*PERMISSIONS, MONITOR)
            if p.user in users
        ]
    return document


def _user(name: str, password: str) -> dict[str, Any]:
    return {
        "name": name,
        "password_hash": password_hash(password, secrets.token_bytes(4)),
        "hashing_algorithm": "rabbit_password_hashing_sha256",
        # The least that the HTTP interface asks for.
        "tags": ["management"] if name == MONITOR.user else [],
    }


def password_hash(password: str, salt: bytes) -> str:
    """RabbitMQ's salted hash: base64(salt + sha256(salt + password)), https://www.rabbitmq.com/docs/passwords."""
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def checked_in_text() -> str:
    """The text of the checked-in file: the topology of the models in this repository, without users."""
    return json.dumps(render_definitions(DEFAULT_MODELS), indent=2) + "\n"


def main(arguments: list[str]) -> int:
    """Write the checked-in file, compare it, or render a broker's. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="shared.messaging.definitions", description="RabbitMQ definitions.")
    parser.add_argument("--check", action="store_true", help="only compare the checked-in file")
    parser.add_argument("--render", type=Path, metavar="FILE", help="write a broker's definitions there instead")
    parser.add_argument("--models", default=",".join(DEFAULT_MODELS), help="comma-separated ids of the models")
    parser.add_argument("--queue-type", type=QueueType, choices=list(QueueType), default=QueueType.CLASSIC)
    parser.add_argument("--passwords", type=Path, metavar="FOLDER", help="holds a file amqp-<user> for each user")
    options = parser.parse_args(arguments)
    if options.render is not None:
        models = [part.strip() for part in options.models.split(",") if part.strip()]
        users = {} if options.passwords is None else _passwords(options.passwords)
        _write_private(options.render, json.dumps(render_definitions(models, users, options.queue_type), indent=2))
        return 0
    text = checked_in_text()
    stale = not CHECKED_IN.exists() or CHECKED_IN.read_text() != text
    if options.check:
        if stale:
            sys.stderr.write(f"{CHECKED_IN} is stale: run make definitions\n")
        return int(stale)
    if stale:
        CHECKED_IN.write_text(text)
    return 0


def _passwords(folder: Path) -> dict[str, str]:
    needed = {each.user: folder / f"amqp-{each.user}" for each in PERMISSIONS}
    monitor = folder / f"amqp-{MONITOR.user}"
    files = {**needed, MONITOR.user: monitor} if monitor.exists() else needed
    return {user: file.read_text(encoding="utf-8").strip() for user, file in files.items()}


def _write_private(path: Path, text: str) -> None:
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
