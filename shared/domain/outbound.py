"""Where the service may connect to on a client's behalf: which URLs it calls, and which addresses are public. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, NoReturn
from urllib.parse import urlsplit

from shared.domain.errors import UrlRefusedError

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

LONGEST_URL: Final = 2048
_LONGEST_HOST: Final = 253
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
# Printable ASCII; a backslash is a slash to some readers of URLs and none to others.
_PLAIN: Final = re.compile(r"[!-\[\]-~]+")
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
# What the C library reads as an IPv4 address though it is not written as one: 127.1, 2130706433, 0x7f.0.0.1.
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")

# The IANA registries of special-purpose addresses, and the one metadata service that has a public address (Azure's).
_REFUSED_V4: Final = tuple(
    IPv4Network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
        *("203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32"),
    )
)
# Of IPv6 only global unicast is public, without Teredo and other protocols' own, 6to4 and examples.
_GLOBAL_V6: Final = IPv6Network("2000::/3")
_REFUSED_V6: Final = tuple(
    IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "2620:4f:8000::/48")
)
# These hold an IPv4 address in their last 32 bits and lead to it.
_HOLD_V4: Final = (IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96"))


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundPolicy:
    """Which ports may be connected to, and which networks besides those that everybody reaches."""

    ports: frozenset[int] = frozenset({80, 443})
    allowed_networks: tuple[Network, ...] = ()

    def allows(self, address: Address) -> bool:
        """Whether an address may be connected to."""
        return is_public(address) or any(address in network for network in self.allowed_networks)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A URL, taken apart. ``host`` is a name in lower case, or an address without brackets."""

    tls: bool
    host: str
    port: int
    path: str

    @property
    def authority(self) -> str:
        """The Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _DEFAULT_PORTS["https" if self.tls else "http"] else f"{host}:{self.port}"


def is_public(address: Address) -> bool:
    """Whether anybody on the internet could reach the same host at this address."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _REFUSED_V4)
    if any(address in network for network in _HOLD_V4):
        return is_public(IPv4Address(int(address) & 0xFFFFFFFF))
    return address in _GLOBAL_V6 and not any(address in network for network in _REFUSED_V6)


def literal_address(host: str) -> Address | None:
    """The address that a host is written as; None for a name."""
    try:
        return ip_address(host)
    except ValueError:
        return None


def parse_url(url: str, policy: OutboundPolicy) -> Target:
    """A URL that may be called as far as can be told without resolving its name. Raises UrlRefusedError."""
    if len(url) > LONGEST_URL:
        _refuse(f"must have at most {LONGEST_URL} characters")
    if _PLAIN.fullmatch(url) is None:
        _refuse("must consist of printable ASCII characters, without spaces and backslashes")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:
        _refuse("is not a URL", exc)
    if parts.scheme not in _DEFAULT_PORTS:
        _refuse("must begin with https:// or http://")
    if "@" in parts.netloc:
        _refuse("must not hold a user name or password")
    if "#" in url:
        _refuse("must not have a fragment")
    host = _host((parts.hostname or "").removesuffix("."), policy)
    port = _DEFAULT_PORTS[parts.scheme] if port is None else port
    if port not in policy.ports:
        _refuse(f"must not name port {port}; allowed are {_listed(policy.ports)}")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(tls=parts.scheme == "https", host=host, port=port, path=path)


def parse_ports(text: str) -> frozenset[int]:
    """Ports and ranges of them, with commas between: ``80,443,8000-8080``. Raises ValueError."""
    ports: set[int] = set()
    for part in filter(None, (part.strip() for part in text.split(","))):
        first, _, last = part.partition("-")
        span = range(int(first), int(last or first) + 1)
        if not span or span[0] < 1 or span[-1] > 65535:  # noqa: PLR2004 - the highest port
            message = f"{part} is not a port or a range of ports"
            raise ValueError(message)
        ports.update(span)
    return frozenset(ports)


def parse_networks(text: str) -> tuple[Network, ...]:
    """Networks with commas between: ``127.0.0.0/8,::1``. Raises ValueError."""
    return tuple(ip_network(part.strip()) for part in text.split(",") if part.strip())


def _host(host: str, policy: OutboundPolicy) -> str:
    address = literal_address(host)
    if address is None and (host == "localhost" or host.endswith(".localhost")):
        address = IPv4Address("127.0.0.1")
    if address is not None:
        if "%" in host or not policy.allows(address):
            _refuse("leads to an address that is not public")
        return host
    labels = host.split(".")
    if len(host) > _LONGEST_HOST or not all(_LABEL.fullmatch(label) for label in labels):
        _refuse("has no valid host name; write international names in their xn-- form")
    if _NUMBER.fullmatch(labels[-1]):
        _refuse("has a host that is neither a name nor an address")
    return host


def _listed(ports: frozenset[int]) -> str:
    shown = sorted(ports)
    return ", ".join(map(str, shown[:8])) + (" ..." if len(shown) > 8 else "")  # noqa: PLR2004 - enough to see


def _refuse(problem: str, cause: ValueError | None = None) -> NoReturn:
    message = f"the URL {problem}"
    raise UrlRefusedError(message) from cause
