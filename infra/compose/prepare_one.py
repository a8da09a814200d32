"""``python -m infra.compose.prepare_one SERVER --out FILE``: what one server reads, from its own secrets alone.

For servers that are prepared each in its own place, as on Kubernetes. Standard library only.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from infra.compose.prepare import REDIS_PORT
from infra.redis.conf import redis_conf
from infra.seaweedfs.server import identities, key_names

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Secret = Callable[[str], str]


def _redis(secret: Secret) -> str:
    return redis_conf(bind="0.0.0.0", port=REDIS_PORT, folder=Path("/data"), password=secret("redis"))


def _seaweedfs(secret: Secret) -> str:
    return identities({name: secret(name) for name in key_names()})


_SERVERS: Final[dict[str, Callable[[Secret], str]]] = {"redis": _redis, "seaweedfs": _seaweedfs}


def main(arguments: Sequence[str]) -> int:
    """Write the file, readable for its owner and group. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="infra.compose.prepare_one", description=__doc__)
    parser.add_argument("server", choices=sorted(_SERVERS))
    parser.add_argument("--secrets", type=Path, default=Path("/run/secrets"), help="folder of the secrets")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    options = parser.parse_args(arguments)
    folder: Path = options.secrets
    text = _SERVERS[options.server](lambda name: (folder / name).read_text(encoding="utf-8").strip())
    options.out.touch(mode=0o640)
    options.out.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
