from __future__ import annotations

import pytest

from shared.domain.errors import ConfigurationError
from shared.messaging.addresses import BrokerAddresses, node_urls


@pytest.mark.parametrize(
    ("url", "nodes"),
    [
        ("amqp://u:p@one:5672/atelier", ["amqp://u:p@one:5672/atelier"]),
        (
            "amqps://u:p,w%40@one:5671,two:5671, three/atelier?heartbeat=5",
            [
                "amqps://u:p,w%40@one:5671/atelier?heartbeat=5",
                "amqps://u:p,w%40@two:5671/atelier?heartbeat=5",
                "amqps://u:p,w%40@three/atelier?heartbeat=5",
            ],
        ),
        ("amqp://one,two", ["amqp://one", "amqp://two"]),
        ("amqp://u:p@[::1]:5672,[::2]:5672/v", ["amqp://u:p@[::1]:5672/v", "amqp://u:p@[::2]:5672/v"]),
    ],
)
def test_an_address_names_one_node_or_several(url: str, nodes: list[str]) -> None:
    assert node_urls(url) == nodes


def test_attempts_go_round_all_nodes() -> None:
    addresses = BrokerAddresses("amqp://u:p@one,two,three/atelier", "test")
    hosts = [addresses.following().host for _ in range(6)]
    assert set(hosts[:3]) == {"one", "two", "three"}
    assert hosts[3:] == hosts[:3]


def test_where_there_is_another_node_a_silent_one_is_left_sooner() -> None:
    (alone,) = BrokerAddresses("amqp://u:p@one/atelier", "test").nodes
    two = BrokerAddresses("amqp://u:p@one,two/atelier", "test")
    assert two.are_many
    for node in two.nodes:
        assert isinstance(node.heartbeat, int)
        assert isinstance(alone.heartbeat, int)
        assert node.heartbeat < alone.heartbeat
        assert (node.virtual_host, node.client_properties) == ("atelier", {"connection_name": "test"})


def test_a_heartbeat_in_the_address_counts() -> None:
    nodes = BrokerAddresses("amqp://u:p@one,two/atelier?heartbeat=60", "test").nodes
    assert {node.heartbeat for node in nodes} == {60}


@pytest.mark.parametrize("url", ["amqp://u:p@one:x,two/atelier", "amqp://u:p@one:70000000,two:y/v"])
def test_what_is_no_address_is_refused_without_being_shown(url: str) -> None:
    with pytest.raises(ConfigurationError, match="ATELIER_AMQP_URL") as refused:
        BrokerAddresses(url, "test")
    assert "two" not in refused.value.message
