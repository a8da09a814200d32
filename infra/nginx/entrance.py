"""The entrance's configuration from ``infra/nginx/nginx.conf.template``, wherever nginx runs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

BODY_LIMIT_BYTES: Final = 256 * 1024
# As ATELIER_MAX_IMAGE_BYTES is by default; and how many uploads may lie in nginx's own files at once.
IMAGE_LIMIT_BYTES: Final = 10 * 1024**2
MOST_UPLOADS: Final = 8
_TEMPLATE: Final = Path(__file__).with_name("nginx.conf.template")
_PLACEHOLDER: Final = re.compile(r"@@([A-Z_]+)@@")
_KNOWN_TRIES: Final = "2"
# A name keeps the addresses of processes that end until they have ended, and they refuse meanwhile: when a service
# shrinks from four to one, three of four addresses do. How often a request is tried is all that this changes.
_NAMED_TRIES: Final = "6"
ANYBODY: Final = "# runs as the user who started it"
GATEWAY: Final = "gateway"
STATUS_API: Final = "status-api"
_NO_TLS: Final = "# no TLS"


@dataclass(frozen=True, slots=True)
class Known:
    """The services' processes are known: requests go to the one with the fewest, over connections that are kept."""

    gateways: Sequence[str]  # host:port
    status_apis: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """The services are names whose addresses a resolver knows, and come and go."""

    gateway: str  # name:port
    status_api: str
    resolver: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """TLS on both sides: to clients with a certificate, to the services with theirs verified."""

    certificate: Path  # with those above it behind it
    key: Path
    ca_file: Path  # whom to trust among the services
    health: str | None = None  # address:port of a plain /healthz, for whoever looks after nginx


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrance:
    """What the template needs to know."""

    listen: str  # address:port, or a port
    services: Known | Named
    run: Path  # pid file and temporary files
    access_log: str = "/dev/stdout"
    user: str = ANYBODY
    tls: Tls | None = None


def nginx_conf(entrance: Entrance) -> str:
    """The configuration. Raises KeyError when the template asks for something unknown."""
    tls = _NO_TLS if entrance.tls is None else _tls(entrance.tls)
    values = {
        "USER": entrance.user,
        "RUN": str(entrance.run),
        "LISTEN": entrance.listen if entrance.tls is None else f"{entrance.listen} ssl",
        "SCHEME": "http" if entrance.tls is None else "https",
        "BODY_LIMIT": str(BODY_LIMIT_BYTES),
        "IMAGE_LIMIT": str(IMAGE_LIMIT_BYTES),
        "UPLOADS": str(MOST_UPLOADS),
        "ACCESS_LOG": entrance.access_log,
        **_services(entrance.services),
    }
    template = _TEMPLATE.read_text(encoding="utf-8").replace("@@TLS@@", tls)
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template)


def _tls(tls: Tls) -> str:
    lines = [
        f"ssl_certificate {tls.certificate};",
        f"ssl_certificate_key {tls.key};",
        "ssl_protocols TLSv1.2 TLSv1.3;",
        "ssl_session_cache shared:tls:4m;",
        "ssl_session_tickets off;",
        f"proxy_ssl_trusted_certificate {tls.ca_file};",
        "proxy_ssl_verify on;",
        "proxy_ssl_verify_depth 2;",
        # The certificate must be for the name in proxy_pass, which is that of the service.
        "proxy_ssl_server_name on;",
        "proxy_ssl_protocols TLSv1.2 TLSv1.3;",
    ]
    if tls.health is not None:
        lines += [
            "server {",
            f"    listen {tls.health};",
            "    access_log off;",
            "    set $gateways @@GATEWAYS@@;",
            "    location = /healthz { proxy_pass https://$gateways; }",
            "    location / { return 404; }",
            "}",
        ]
    return "\n    ".join(lines)


def _services(services: Known | Named) -> dict[str, str]:
    if isinstance(services, Named):
        # A second is how long an address may be stale: one that is gone refuses, and the next one is tried.
        resolver = f"resolver {services.resolver} valid=1s ipv6=off;"
        names = {"GATEWAYS": services.gateway, "STATUS_APIS": services.status_api}
        return {"SERVICES": resolver, "TRIES": _NAMED_TRIES, **names}
    # Where TLS is spoken, these are the names that the services' certificates must have.
    blocks = _upstream(GATEWAY, services.gateways), _upstream(STATUS_API, services.status_apis)
    names = {"GATEWAYS": GATEWAY, "STATUS_APIS": STATUS_API}
    return {"SERVICES": "\n\n    ".join(blocks), "TRIES": _KNOWN_TRIES, **names}


def _upstream(name: str, servers: Sequence[str]) -> str:
    # A server that failed twice is left alone for only two seconds: a refused connection costs next to nothing, and
    # while every server is left alone clients get 502.
    lines = (
        f"zone {name} 64k;",
        "least_conn;",
        *(f"server {server} max_fails=2 fail_timeout=2s;" for server in servers),
        "keepalive 32;",
        "keepalive_timeout 30s;",
        "keepalive_requests 10000;",
    )
    return f"upstream {name} {{\n        " + "\n        ".join(lines) + "\n    }"
