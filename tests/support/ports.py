"""Free ports on loopback."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack
from typing import Final

LOOPBACK: Final = "127.0.0.1"
# Below Linux' ephemeral range (32768 and up): a port from within it may be taken by somebody's outgoing connection
# while the server that owns it restarts.
_LOWEST: Final = 20_000
_HIGHEST: Final = 32_000


def free_ports(count: int) -> list[int]:
    """So many different ports that nobody listens on at this moment."""
    ports: list[int] = []
    with ExitStack() as held:
        while len(ports) < count:
            port = random.randint(_LOWEST, _HIGHEST)  # noqa: S311 - not a secret
            candidate = held.enter_context(socket.socket())
            try:
                candidate.bind((LOOPBACK, port))
            except OSError:
                continue
            ports.append(port)
    return ports


def free_port() -> int:
    """One free port."""
    return free_ports(1)[0]
