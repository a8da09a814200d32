"""Redis: counters and caches that may be lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from infra.native.config import base_environment
from infra.native.credentials import write_private
from infra.native.ports import HOST
from infra.native.program import Program, Stage, system_program
from infra.native.readiness import redis_probe
from infra.redis.conf import redis_conf

if TYPE_CHECKING:
    from pathlib import Path

    from infra.native.program import Site

_CONF = "redis.conf"


def redis_url_file(site: Site) -> Path:
    """The address with its password, in a file that only the owner may read."""
    return site.secrets.store("redis.url", f"redis://:{site.secrets.value('redis')}@{HOST}:{site.ports['redis']}/0")


def render(site: Site) -> None:
    """Write the server's configuration. It holds the password."""
    data = site.layout.data("redis")
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    password = site.secrets.value("redis")
    text = redis_conf(bind=HOST, port=site.ports["redis"], folder=data, password=password)
    write_private(site.layout.secrets / _CONF, text)
    redis_url_file(site)


def programs(site: Site) -> list[Program]:
    """The server."""
    return [
        Program(
            name="redis",
            stage=Stage.STORES,
            command=(system_program("redis-server"), str(site.layout.secrets / _CONF)),
            probe=redis_probe(site.ports["redis"], site.secrets.value("redis")),
            environment=base_environment(),
        )
    ]
