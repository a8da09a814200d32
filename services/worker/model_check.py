"""Looks a model's folder over before anything is started for it. No weights are read and no library is loaded.

Every finding is a ConfigurationError that names the file and what to do about it. As a program,
``python -m services.worker.model_check FOLDER``, it checks the model card as well, and ends with 78 on a finding.
"""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from services.worker.backends.model_folder import CARD_NAME, NATIVE_TYPES, read_card, read_json, refuse_unsafe
from shared.contracts.model_card import load_model_card
from shared.domain.errors import ConfigurationError
from shared.lifecycle import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

INDEX_SUFFIX: Final = ".safetensors.index.json"
_LENGTH_BYTES: Final = 8
_MOST_HEADER_BYTES: Final = 100_000_000  # the format's own bound
_LFS_POINTER: Final = b"version https://git-lfs"
_MOST_POINTER_BYTES: Final = 1024
_PICKLES: Final = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFolder:
    """What was found: bytes of weights, whether this user could change a file, Python files that are never imported."""

    weight_bytes: int
    read_only: bool
    ignored: tuple[str, ...] = ()


def check_model_folder(folder: Path, *, require_readonly: bool, readable: tuple[Path, ...] = ()) -> ModelFolder:
    """Check that a worker may start on this folder.

    ``readable``: further folders that the model's process may read, which links may lead to. Raises ConfigurationError.
    """
    files = _files(folder)
    if not files:
        raise _wrong(folder, "is empty; put the model's files there")
    if not (folder / CARD_NAME).is_file():
        raise _wrong(folder / CARD_NAME, "is missing; every model folder has a model card")
    card = read_card(folder)
    inside = (folder, *readable)
    for path in files:
        _check_file(path, inside)
    refuse_unsafe(folder, NATIVE_TYPES.get(str(card["model"].get("backend")), frozenset()))
    weights = [path for path in files if path.suffix == ".safetensors"]
    for path in weights:
        _check_safetensors(path)
    for path in files:
        if path.name.endswith(INDEX_SUFFIX):
            _check_index(path)
    writable = next((path for path in _with_folders(folder, files) if not _read_only(path)), None)
    if require_readonly and writable is not None:
        raise _wrong(
            writable,
            "can be changed by this worker, and ATELIER_REQUIRE_READONLY_MODELS asks for a read-only folder; mount it"
            " read-only (:ro), or let another user own it and take the right to write from this one",
        )
    return ModelFolder(
        weight_bytes=sum(path.stat().st_size for path in weights),
        read_only=writable is None,
        ignored=tuple(path.relative_to(folder).as_posix() for path in files if path.suffix == ".py"),
    )


def _files(folder: Path) -> list[Path]:
    """Everything below that is no folder, hidden names apart. A folder that cannot be listed is an error."""
    if not folder.exists():
        raise _wrong(folder, "does not exist; see ATELIER_MODELS_DIR and ATELIER_WORKER_MODEL")
    if not folder.is_dir():
        raise _wrong(folder, "is not a folder")
    found = []
    for place, folders, names in os.walk(folder, onerror=_unlistable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            if (Path(place) / name).is_symlink():
                raise _wrong(Path(place) / name, "is a link to a folder; put the folder itself there")
        found += [Path(place) / name for name in names if not name.startswith(".")]
    return sorted(found)


def _unlistable(error: OSError) -> None:
    raise _wrong(error.filename, f"cannot be listed: {error.strerror}; let this worker's user read it") from error


def _check_file(path: Path, inside: tuple[Path, ...]) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as exc:
        raise _wrong(path, f"leads nowhere: {exc.strerror}; put the file itself there") from exc
    if not stat.S_ISREG(mode):
        raise _wrong(path, "is not a regular file; remove it")
    # The model's process may read its folder only, and a downloaded link could name anything.
    if path.is_symlink() and not any(path.resolve().is_relative_to(folder.resolve()) for folder in inside):
        raise _wrong(path, f"is a link out of the model's folder, to {path.resolve()}; put the file itself there")
    if not os.access(path, os.R_OK):
        raise _wrong(path, "cannot be read; let this worker's user read it")
    if path.stat().st_size <= _MOST_POINTER_BYTES and path.read_bytes().startswith(_LFS_POINTER):
        raise _wrong(path, "is a git-lfs pointer and not the file itself; run git lfs pull")


def _check_safetensors(path: Path) -> None:
    """Compare the header with the size of the file: a download or a copy that broke off shows here."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(_LENGTH_BYTES)
        length = int.from_bytes(start, "little")
        if size < _LENGTH_BYTES or length > min(size - _LENGTH_BYTES, _MOST_HEADER_BYTES):
            # Only now: a sound file whose header has 640 bytes begins like a pickle, too.
            if start.startswith(_PICKLES):
                raise _wrong(path, "is a pickle or an archive under another name; convert the weights to safetensors")
            raise _truncated(path, f"has {size} bytes and a header of {length}")
        header = file.read(length)
    try:
        tensors: dict[str, Any] = json.loads(header)
        ends = [_end(entry) for name, entry in tensors.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        raise _wrong(path, "has no readable safetensors header; fetch it again") from exc
    expected = _LENGTH_BYTES + length + max(ends, default=0)
    if size != expected:
        raise _truncated(path, f"has {size} bytes, its header tells of {expected}")


def _end(entry: dict[str, Any]) -> int:
    begin, end = entry["data_offsets"]
    if not 0 <= begin <= end or not isinstance(entry["dtype"], str) or prod(entry["shape"]) < 0:
        raise ValueError
    return int(end)


def _check_index(path: Path) -> None:
    shards = read_json(path).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise _wrong(path, "has no weight_map of names; fetch it again")
    for name in sorted(set(shards.values())):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise _wrong(path, f"names {name!r}, which is no safetensors file beside it; fetch it again")
        if not (path.parent / name).is_file():
            raise _wrong(path, f"names {name}, which is missing; fetch the rest of the model")


def _with_folders(folder: Path, files: list[Path]) -> Iterator[Path]:
    yield from dict.fromkeys((folder, *(path.parent for path in files)))
    yield from files


def _read_only(path: Path) -> bool:
    """Whether this process cannot change it, not even by changing its mode first. A read-only mount binds root too."""
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return True
    return not os.access(path, os.W_OK) and path.stat().st_uid != os.geteuid()


def _truncated(path: Path, what: str) -> ConfigurationError:
    return _wrong(path, f"is not whole: it {what}; fetch it again")


def _wrong(path: Path | str, what: str) -> ConfigurationError:
    return ConfigurationError(f"model folder: {path} {what}")


def main(arguments: Sequence[str]) -> int:
    """Check one folder and its card, and say what was found. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="services.worker.model_check", description="check a model's folder")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args(arguments).folder.resolve()
    try:
        found = check_model_folder(folder, require_readonly=False)
        card = load_model_card(folder)
    except ConfigurationError as exc:
        sys.stderr.write(f"{exc.message}\n")
        return ExitCode.CONFIGURATION
    ignored = f"; never imported: {', '.join(found.ignored)}" if found.ignored else ""
    sys.stdout.write(f"{card.id}: backend {card.model.backend}, {found.weight_bytes} bytes of weights{ignored}\n")
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
