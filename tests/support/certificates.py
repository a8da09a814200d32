"""Certificate authorities made for tests, by the script that operators use."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from infra.native.config import CHECKOUT

if TYPE_CHECKING:
    from pathlib import Path

MAKE_CA: Final = CHECKOUT / "infra" / "tls" / "make-ca.sh"


@dataclass(frozen=True, slots=True)
class Authority:
    """One authority; a server's files have its name."""

    folder: Path

    @property
    def ca_file(self) -> Path:
        """What clients trust."""
        return self.folder / "ca.crt"

    def certificate(self, server: str) -> Path:
        """What a server shows."""
        return self.folder / f"{server}.crt"

    def key(self, server: str) -> Path:
        """The key to it."""
        return self.folder / f"{server}.key"


def make_authority(folder: Path, *servers: str) -> Authority:
    """A new one, with a certificate for each server."""
    subprocess.run([MAKE_CA, folder, *servers], check=True, timeout=30)
    return Authority(folder)
