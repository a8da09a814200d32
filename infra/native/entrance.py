"""Nginx: the public entrance, before the processes of the stack."""

from __future__ import annotations

import grp
import os
import pwd
from typing import TYPE_CHECKING

from infra.native.config import base_environment
from infra.native.ports import HOST
from infra.native.program import Program, Stage, system_program
from infra.native.readiness import http_probe
from infra.nginx.entrance import ANYBODY, Entrance, Known, nginx_conf

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from infra.native.program import Site


def local_entrance(
    listen: int, gateways: Sequence[int], status_apis: Sequence[int], run: Path, access_log: str = "/dev/stdout"
) -> Entrance:
    """An entrance whose ports are all on loopback."""
    services = Known(tuple(map(_local, gateways)), tuple(map(_local, status_apis)))
    return Entrance(listen=_local(listen), services=services, run=run, access_log=access_log, user=_user_directive())


def nginx_command(conf: Path) -> tuple[str, ...]:
    """The command; the first -e is for what nginx says before it has read its configuration."""
    return (system_program("nginx"), "-e", "stderr", "-p", str(conf.parent), "-c", str(conf))


def render(site: Site) -> None:
    """Write the configuration."""
    run = site.layout.data("nginx")
    run.mkdir(mode=0o700, parents=True, exist_ok=True)
    ports = site.ports
    text = nginx_conf(local_entrance(ports.public, ports.gateways, ports.status_apis, run))
    (site.layout.conf / "nginx.conf").write_text(text, encoding="utf-8")


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


def _local(port: int) -> str:
    return f"{HOST}:{port}"


def _user_directive() -> str:
    if os.geteuid() != 0:
        return ANYBODY
    # As root nginx would hand its work to "nobody", who may not enter our folders.
    return f"user {pwd.getpwuid(os.geteuid()).pw_name} {grp.getgrgid(os.getegid()).gr_name};"
