"""``python -m infra.kubernetes [--check]``: writes what the manifests in ``deploy/k8s`` share with the rest.

Kustomize reads no file outside the folder that it builds, so those folders hold copies.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from infra.nginx.entrance import Entrance, Named, nginx_conf

if TYPE_CHECKING:
    from collections.abc import Sequence

_CHECKOUT: Final = Path(__file__).parents[2]
MANIFESTS: Final = _CHECKOUT / "deploy" / "k8s"
NAMESPACE: Final = "atelier"
_TEMPORARY: Final = Path("/tmp")  # noqa: S108 - a volume of the pod's own
# nginx's own resolver adds no search domains, so these are whole names.
_DOMAIN: Final = "svc.cluster.local"
_COPIES: Final = {
    "base/files/plans.toml": "plans.toml",
    "overlays/single-node/files/rabbitmq.conf": "infra/rabbitmq/rabbitmq.conf",
    "overlays/single-node/files/container.conf": "infra/compose/rabbitmq.conf",
    "overlays/single-node/files/enabled_plugins": "infra/rabbitmq/enabled_plugins",
    "overlays/single-node/files/postgres-roles.sql": "infra/compose/postgres-roles.sql",
}


def files() -> dict[Path, str]:
    """Every file that is not written by hand, and its text."""
    found = {MANIFESTS / copy: (_CHECKOUT / source).read_text(encoding="utf-8") for copy, source in _COPIES.items()}
    services = Named(
        gateway=f"gateway.{NAMESPACE}.{_DOMAIN}:8000",
        status_api=f"status-api.{NAMESPACE}.{_DOMAIN}:8000",
        resolver=f"kube-dns.kube-system.{_DOMAIN}",
    )
    found[MANIFESTS / "base/files/nginx.conf"] = nginx_conf(Entrance(listen="8080", services=services, run=_TEMPORARY))
    return found


def main(arguments: Sequence[str]) -> int:
    """Write the files, or with ``--check`` only compare them. Returns the exit status."""
    stale = {path: text for path, text in files().items() if not path.exists() or path.read_text() != text}
    for path, text in stale.items():
        if "--check" in arguments:
            sys.stderr.write(f"{path} is stale: run make k8s\n")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return int("--check" in arguments and bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
