"""Where a request comes from, as far as it can be believed."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Final

from flask import request

UNKNOWN: Final = "unknown"
# One subscriber gets at least so much, and can send from any address in it.
_IPV6_PREFIX: Final = 64


def client_address(trusted_proxies: int) -> str:
    """The address of the current request's client, an IPv6 one as its /64 network.

    Each trusted proxy adds the address that it was asked from at the end of X-Forwarded-For, or writes the field anew.
    So the entry that the outermost of them wrote is ``trusted_proxies`` from the right, and whatever stands further
    left is the client's word. A request with fewer entries came past them: its own peer counts.
    """
    if trusted_proxies:
        claims = request.headers.get("X-Forwarded-For", "").split(",")
        if len(claims) >= trusted_proxies:
            address = _normal(claims[-trusted_proxies].strip())
            if address is not None:
                return address
    return _normal(request.remote_addr or "") or UNKNOWN


def _normal(text: str) -> str | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(IPv6Network((int(address), _IPV6_PREFIX), strict=False))
