from __future__ import annotations

import pytest
from flask import Flask

from shared.http.client_address import UNKNOWN, client_address

PEER = "192.0.2.1"


def address(claims: str | None, proxies: int = 1, peer: str | None = PEER) -> str:
    headers = {} if claims is None else {"X-Forwarded-For": claims}
    environ = {} if peer is None else {"REMOTE_ADDR": peer}
    with Flask("test").test_request_context(headers=headers, environ_overrides=environ):
        return client_address(proxies)


@pytest.mark.parametrize(
    ("claims", "proxies", "expected"),
    [
        ("198.51.100.7", 1, "198.51.100.7"),
        ("6.6.6.6, 198.51.100.7", 1, "198.51.100.7"),
        ("6.6.6.6, 198.51.100.7,203.0.113.9", 2, "198.51.100.7"),
        ("198.51.100.7", 0, PEER),
        (None, 1, PEER),
        ("", 1, PEER),
        ("198.51.100.7", 2, PEER),
        ("nonsense", 1, PEER),
        ("198.51.100.7,", 1, PEER),
        ("198.51.100.7:4711", 1, PEER),
        ("2001:db8:1:2:3:4:5:6", 1, "2001:db8:1:2::/64"),
        ("::ffff:198.51.100.7", 1, "198.51.100.7"),
    ],
)
def test_only_what_the_outermost_trusted_proxy_wrote_counts(claims: str | None, proxies: int, expected: str) -> None:
    assert address(claims, proxies) == expected


def test_one_ipv6_network_is_one_client_and_the_next_is_another() -> None:
    assert address("2001:db8::1") == address("2001:db8::ffff:1")
    assert address("2001:db8::1") != address("2001:db8:0:1::1")


@pytest.mark.parametrize("peer", ["", None, "unix:"])
def test_a_peer_without_an_address_is_unknown(peer: str | None) -> None:
    assert address(None, 0, peer) == UNKNOWN
