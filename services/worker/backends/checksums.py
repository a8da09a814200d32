"""``SHA256SUMS`` of a folder, in the format of ``sha256sum``, so that ``sha256sum -c SHA256SUMS`` checks it as well."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from shared.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

SUMS_NAME: Final = "SHA256SUMS"


def write_sums(folder: Path) -> dict[str, str]:
    """List every file below the folder. Returns the sums by name, relative to the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS_NAME)
    sums = {path.relative_to(folder).as_posix(): _sum(path) for path in files}
    lines = (f"{digest}  {name}\n" for name, digest in sums.items())
    (folder / SUMS_NAME).write_text("".join(lines), encoding="utf-8")
    return sums


def check_sums(folder: Path) -> int:
    """Compare the files with the list, if there is one. Returns how many were compared; 0 without a list.

    Raises ConfigurationError that names the first file which is missing or another.
    """
    path = folder / SUMS_NAME
    if not path.is_file():
        return 0
    lines = path.read_text(encoding="utf-8").splitlines()
    for line in lines:
        digest, _, name = line.partition("  ")
        file = folder / name
        if not name or not file.resolve().is_relative_to(folder.resolve()):
            message = f"{path}: {line!r} is no line of sha256sum's"
            raise ConfigurationError(message)
        if not file.is_file() or _sum(file) != digest:
            message = f"{file} is not the file that {SUMS_NAME} lists; fetch or convert it again"
            raise ConfigurationError(message)
    return len(lines)


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
