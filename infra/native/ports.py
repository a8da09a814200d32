"""Which port belongs to whom: fixed distances from the base port, all on loopback."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from infra.native.config import StackSettings

HOST: Final = "127.0.0.1"

_GATEWAYS: Final = 0
_STATUS_APIS: Final = 10
_STATUS_CONSUMER: Final = 20
_FURTHER_CONSUMERS: Final = 24
_WORKERS: Final = 30
_FIXED: Final = {
    "rabbitmq": 50,
    "rabbitmq-distribution": 51,
    "epmd": 52,
    "gateway-ledger": 21,
    "status-sweeper": 22,
    "status-webhooks": 23,
    "redis": 60,
    "seaweedfs-master": 70,
    "seaweedfs-master-grpc": 71,
    "seaweedfs-volume": 72,
    "seaweedfs-volume-grpc": 73,
    "seaweedfs-filer": 74,
    "seaweedfs-filer-grpc": 75,
    "seaweedfs": 76,
    "seaweedfs-grpc": 77,
    "seaweedfs-admin": 78,
    # SeaweedFS's own worker looks for this one at exactly this distance, whatever its option says.
    "seaweedfs-admin-grpc": 78 + 10000,
}


class Ports:
    """The ports of one stack, by the names of their programs."""

    def __init__(self, settings: StackSettings) -> None:
        base = settings.base_port
        self.gateways = tuple(base + _GATEWAYS + number for number in range(settings.gateways))
        self.status_apis = tuple(base + _STATUS_APIS + number for number in range(settings.status_apis))
        further = range(_FURTHER_CONSUMERS, _FURTHER_CONSUMERS + settings.status_consumers - 1)
        self.status_consumers = tuple(base + offset for offset in (_STATUS_CONSUMER, *further))
        self.workers = tuple(base + _WORKERS + number for number in range(len(settings.workers)))
        self.public = settings.public_port
        self._fixed = {name: base + offset for name, offset in _FIXED.items()}

    def __getitem__(self, name: str) -> int:
        """The port of an infrastructure program."""
        return self._fixed[name]

    def named(self) -> dict[str, int]:
        """Every port that the stack listens on."""
        names = {f"gateway-{number}": port for number, port in enumerate(self.gateways, 1)}
        names |= {f"status-api-{number}": port for number, port in enumerate(self.status_apis, 1)}
        names |= {f"worker {number}": port for number, port in enumerate(self.workers, 1)}
        names |= {f"status consumer {number}": port for number, port in enumerate(self.status_consumers, 1)}
        return {**names, **self._fixed, "nginx": self.public}


def taken(ports: Ports) -> dict[str, int]:
    """Those ports that somebody else listens on."""
    return {name: port for name, port in ports.named().items() if not _is_free(port)}


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: connections that linger from an earlier run do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
