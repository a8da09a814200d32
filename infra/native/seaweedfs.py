"""SeaweedFS: an S3 service in one process, with an identity for each service."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from infra.native.config import base_environment
from infra.native.credentials import write_private
from infra.native.errors import StackError
from infra.native.ports import HOST
from infra.native.program import Program, Stage
from infra.native.readiness import all_of, checked, tcp_probe
from infra.seaweedfs import server
from shared.config import StorageSettings, load_settings
from shared.storage.s3 import S3Store

if TYPE_CHECKING:
    from infra.native.program import Site

_OPTIONS: Final = "seaweedfs.options"
_IDENTITIES: Final = "seaweedfs-identities.json"
_PORT_OPTIONS: Final = {
    "master.port": "seaweedfs-master",
    "master.port.grpc": "seaweedfs-master-grpc",
    "volume.port": "seaweedfs-volume",
    "volume.port.grpc": "seaweedfs-volume-grpc",
    "filer.port": "seaweedfs-filer",
    "filer.port.grpc": "seaweedfs-filer-grpc",
    "s3.port": "seaweedfs",
    "s3.port.grpc": "seaweedfs-grpc",
    "admin.port": "seaweedfs-admin",
    "admin.port.grpc": "seaweedfs-admin-grpc",
}


def service_environment(site: Site, user: str) -> dict[str, str]:
    """The variables with which a service finds the bucket."""
    return {
        "ATELIER_S3_ENDPOINT": f"http://{HOST}:{site.ports['seaweedfs']}",
        "ATELIER_S3_BUCKET": server.BUCKET,
        "ATELIER_S3_REGION": server.REGION,
        "ATELIER_S3_ACCESS_KEY_FILE": str(site.secrets.path(server.access_key(user))),
        "ATELIER_S3_SECRET_KEY_FILE": str(site.secrets.path(server.secret_key(user))),
    }


def render(site: Site) -> None:
    """Write the server's options and identities. Both hold secrets."""
    data = site.layout.data("seaweedfs")
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    # It writes down the options of its last start and reads them at the next; ours are the only ones that count.
    (data / "mini.options").unlink(missing_ok=True)
    keys = {name: site.secrets.value(name) for name in server.key_names()}
    write_private(site.layout.secrets / _IDENTITIES, server.identities(keys))
    options = {
        "dir": data,
        "ip": HOST,
        "ip.bind": HOST,
        "bucket": server.BUCKET,
        "s3.config": site.layout.secrets / _IDENTITIES,
        "s3.autoCreateBucket": "false",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.localSocket": site.layout.sockets / "s3.sock",
        "filer.localSocket": site.layout.sockets / "filer.sock",
        "webdav": "false",
        "admin.ui": "false",
        "admin.password": site.secrets.value("seaweedfs-admin"),
        "master.telemetry": "false",
        "master.volumePreallocate": "false",
        **{option: site.ports[name] for option, name in _PORT_OPTIONS.items()},
    }
    text = "".join(f"{name}={value}\n" for name, value in options.items())
    write_private(site.layout.secrets / _OPTIONS, text)


def programs(site: Site) -> list[Program]:
    """The server. ``mini`` is ready and stopped within two seconds each; ``server`` takes fifteen to stop."""
    return [
        Program(
            name="seaweedfs",
            stage=Stage.STORES,
            command=(weed_program(), "-logtostderr=true", "mini", f"-options={site.layout.secrets / _OPTIONS}"),
            probe=all_of(tcp_probe(site.ports["seaweedfs"]), checked(lambda: _probe_bucket(site))),
            environment={**base_environment(), "HOME": str(site.layout.data("seaweedfs"))},
        )
    ]


def weed_program() -> str:
    """The server's program, which a Python package brings. Raises StackError when it is missing."""
    weed = Path(sys.prefix) / "bin" / "weed"
    if not weed.exists():
        message = f"{weed} is missing: run `make setup`"
        raise StackError(message)
    return str(weed)


def _probe_bucket(site: Site) -> None:
    S3Store(load_settings(StorageSettings, service_environment(site, "worker"))).probe()


def leftover_sockets(site: Site) -> list[Path]:
    """Sockets that the server keeps in /tmp whatever it is told, and leaves there when it is killed."""
    names = ("master", "volume", "filer", "s3", "admin")
    ports = [f"seaweedfs-{name}-grpc" if name != "s3" else "seaweedfs-grpc" for name in names]
    own = [f"seaweedfs-{name}-grpc-{site.ports[port]}.sock" for name, port in zip(names, ports, strict=True)]
    return [Path("/tmp") / name for name in own]  # noqa: S108 - the server's choice, not ours
