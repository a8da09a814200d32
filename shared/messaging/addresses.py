"""The nodes of a broker, as one address names them: ``amqp://user:password@host1:port,host2:port/vhost``."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from shared.messaging.wire import connection_parameters

if TYPE_CHECKING:
    import pika

# Where there is another node to go to, one that says nothing is given up sooner.
HEARTBEAT_OF_MANY_SECONDS: Final = 10
_HANDSHAKE_OF_MANY_SECONDS: Final = 5


def node_urls(url: str) -> list[str]:
    """One URL for each node that the address names."""
    scheme, separator, rest = url.partition("://")
    end = next((place for place, character in enumerate(rest) if character in "/?#"), len(rest))
    user, at, hosts = rest[:end].rpartition("@")
    return [f"{scheme}{separator}{user}{at}{host.strip()}{rest[end:]}" for host in hosts.split(",")]


class BrokerAddresses:
    """Each attempt to connect goes to the next node, the first to any of them: connections spread over all."""

    def __init__(self, url: str, name: str, heartbeat_of_many: int = HEARTBEAT_OF_MANY_SECONDS) -> None:
        """``name`` is what the broker's tools show. Raises ConfigurationError for what is no AMQP URL.

        ``heartbeat_of_many``: seconds, where there are several nodes and the URL names no heartbeat.
        """
        self.nodes = [connection_parameters(each, name) for each in node_urls(url)]
        self._next = random.randrange(len(self.nodes))  # noqa: S311 - not a secret
        if self.are_many:
            for node in self.nodes:
                node.stack_timeout = _HANDSHAKE_OF_MANY_SECONDS
                if "heartbeat=" not in url:
                    node.heartbeat = heartbeat_of_many

    @property
    def are_many(self) -> bool:
        """Whether there is another node to go to."""
        return len(self.nodes) > 1

    def following(self) -> pika.URLParameters:
        """The node for the next attempt."""
        node = self.nodes[self._next]
        self._next = (self._next + 1) % len(self.nodes)
        return node
