"""Nginx: the public entrance, from ``infra/nginx/nginx.conf.template``."""

from __future__ import annotations

import grp
import os
import pwd
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from infra.native.config import CHECKOUT, base_environment
from infra.native.ports import HOST
from infra.native.program import Program, Stage, system_program
from infra.native.readiness import http_probe

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from infra.native.program import Site

BODY_LIMIT_BYTES: Final = 256 * 1024
_TEMPLATE: Final = CHECKOUT / "infra" / "nginx" / "nginx.conf.template"
_PLACEHOLDER: Final = re.compile(r"@@([A-Z_]+)@@")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entrance:
    """What the template needs to know."""

    listen: int
    gateways: Sequence[int]
    status_apis: Sequence[int]
    run: Path  # pid file and temporary files
    access_log: str = "/dev/stdout"


def nginx_conf(entrance: Entrance) -> str:
    """The configuration. Raises KeyError when the template asks for something unknown."""
    values = {
        "USER": _user_directive(),
        "RUN": str(entrance.run),
        "LISTEN": f"{HOST}:{entrance.listen}",
        "GATEWAYS": _servers(entrance.gateways),
        "STATUS_APIS": _servers(entrance.status_apis),
        "BODY_LIMIT": str(BODY_LIMIT_BYTES),
        "ACCESS_LOG": entrance.access_log,
    }
    template = _TEMPLATE.read_text(encoding="utf-8")
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template)


def nginx_command(conf: Path) -> tuple[str, ...]:
    """The command; the first -e is for what nginx says before it has read its configuration."""
    return (system_program("nginx"), "-e", "stderr", "-p", str(conf.parent), "-c", str(conf))


def render(site: Site) -> None:
    """Write the configuration."""
    run = site.layout.data("nginx")
    run.mkdir(mode=0o700, parents=True, exist_ok=True)
    ports = site.ports
    entrance = Entrance(listen=ports.public, gateways=ports.gateways, status_apis=ports.status_apis, run=run)
    (site.layout.conf / "nginx.conf").write_text(nginx_conf(entrance), encoding="utf-8")


def programs(site: Site) -> list[Program]:
    """The server."""
    return [
        Program(
            name="nginx",
            stage=Stage.ENTRANCE,
            command=nginx_command(site.layout.conf / "nginx.conf"),
            probe=http_probe(site.ports.public, "/healthz"),
            environment=base_environment(),
        )
    ]


def _servers(ports: Sequence[int]) -> str:
    return "\n        ".join(f"server {HOST}:{port} max_fails=2 fail_timeout=2s;" for port in ports)


def _user_directive() -> str:
    if os.geteuid() != 0:
        return "# runs as the user who started it"
    # As root nginx would hand its work to "nobody", who may not enter our folders.
    return f"user {pwd.getpwuid(os.geteuid()).pw_name} {grp.getgrgid(os.getegid()).gr_name};"
