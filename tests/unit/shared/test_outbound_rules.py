from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.errors import UrlRefusedError
from shared.domain.outbound import OutboundPolicy, is_public, parse_networks, parse_ports, parse_url

PUBLIC = OutboundPolicy()
LOCAL = OutboundPolicy(ports=frozenset({80, 8080}), allowed_networks=parse_networks("127.0.0.0/8, ::1"))


@pytest.mark.parametrize(
    "text",
    [
        *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254"),  # noqa: S104 - nothing is bound
        *("169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.1.1"),
        *("198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "240.0.0.1", "255.255.255.255", "168.63.129.16"),
        *("::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe"),
        *("64:ff9b:1::808:808", "100::1", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:db8::1"),
        *("2002:7f00:1::", "2002:808:808::", "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1"),
        *("ff02::1", "4000::1"),
    ],
)
def test_what_is_not_on_the_internet_is_not_public(text: str) -> None:
    assert not is_public(ip_address(text))


@pytest.mark.parametrize(
    "text",
    [
        *("1.1.1.1", "8.8.8.8", "93.184.216.34", "100.63.255.255", "100.128.0.0", "172.15.255.255", "172.32.0.0"),
        *("192.167.255.255", "223.255.255.255", "2606:4700::1111", "2a00:1450:4001::1", "::ffff:8.8.8.8"),
        "64:ff9b::808:808",
    ],
)
def test_what_is_on_the_internet_is_public(text: str) -> None:
    assert is_public(ip_address(text))


@given(st.ip_addresses())
def test_nothing_is_public_that_the_standard_library_knows_as_private(address: object) -> None:
    found = ip_address(str(address))
    held = getattr(found, "ipv4_mapped", None) or found
    if held.is_private or held.is_loopback or held.is_link_local or held.is_multicast or held.is_unspecified:
        assert not is_public(found)


@pytest.mark.parametrize(
    ("url", "authority", "path"),
    [
        ("https://example.com", "example.com", "/"),
        ("HTTPS://EXAMPLE.com:443/a?b=c", "example.com", "/a?b=c"),
        ("http://example.com.:80/hook", "example.com", "/hook"),
        ("https://example.com:80/", "example.com:80", "/"),
        ("https://8.8.8.8/x", "8.8.8.8", "/x"),
        ("https://[2606:4700::1111]:80?x", "[2606:4700::1111]:80", "/?x"),
        ("https://xn--bcher-kva.example/%20", "xn--bcher-kva.example", "/%20"),
    ],
)
def test_a_url_is_taken_apart(url: str, authority: str, path: str) -> None:
    target = parse_url(url, PUBLIC)
    assert (target.authority, target.path, target.tls) == (authority, path, url.lower().startswith("https"))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "printable"),
        ("example.com", "begin with"),
        ("ftp://example.com/", "begin with"),
        ("file:///etc/passwd", "begin with"),
        ("//example.com/", "begin with"),
        ("https:///path", "host"),
        ("https://user@example.com/", "user name"),
        ("https://user:secret@example.com/", "user name"),
        ("https://example.com\\@127.0.0.1/", "backslashes"),
        ("https://example.com/#part", "fragment"),
        ("https://example.com/#", "fragment"),
        ("https://example.com/a b", "spaces"),
        ("https://example.com/\r\nX: y", "printable"),
        ("https://bücher.example/", "ASCII"),
        ("https://example.com:22/", "port 22"),
        ("https://example.com:0/", "port 0"),
        ("https://example.com:99999/", "not a URL"),
        ("https://[::1/", "not a URL"),
        ("https://127.0.0.1/", "not public"),
        ("https://localhost/", "not public"),
        ("https://a.localhost/", "not public"),
        ("https://169.254.169.254/latest/meta-data", "not public"),
        ("https://[::1]/", "not public"),
        ("https://[::ffff:127.0.0.1]/", "not public"),
        ("https://[fe80::1%25eth0]/", "not public"),
        ("https://127.1/", "neither a name nor an address"),
        ("https://2130706433/", "neither a name nor an address"),
        ("https://0x7f.0.0.1/", "neither a name nor an address"),
        ("https://0x7f000001/", "neither a name nor an address"),
        ("https://a..b/", "host name"),
        (f"https://{'a' * 64}.example/", "host name"),
        (f"https://example.com/{'a' * 2048}", "2048"),
    ],
)
def test_a_url_that_is_not_called_is_refused_with_its_reason(url: str, said: str) -> None:
    with pytest.raises(UrlRefusedError, match=said):
        parse_url(url, PUBLIC)


def test_an_operator_may_allow_networks_and_ports() -> None:
    for url in ("http://127.0.0.1:8080/", "http://localhost/", "http://[::1]/"):
        parse_url(url, LOCAL)
    for url in ("http://10.0.0.1/", "http://127.0.0.1:443/", "http://[::2]/"):
        with pytest.raises(UrlRefusedError):
            parse_url(url, LOCAL)


def test_ports_are_written_as_numbers_and_ranges() -> None:
    assert parse_ports("80, 443,8000-8002") == {80, 443, 8000, 8001, 8002}
    for text in ("x", "0", "65536", "90-80"):
        with pytest.raises(ValueError, match=r".+"):
            parse_ports(text)
