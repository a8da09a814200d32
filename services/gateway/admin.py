"""``python -m services.gateway.admin key create|list|revoke``: API keys in a keys file.

A key is shown once, when it is made. Gateways and status services read a changed file within seconds.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from services.gateway.config import AdminSettings
from shared.auth.keys import KeyRecord, KeysDocument, generate_key, key_record
from shared.config import load_settings
from shared.domain.errors import ConfigurationError
from shared.domain.task import Lane
from shared.lifecycle import ExitCode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def main(arguments: Sequence[str]) -> int:
    """Run one command. Returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        settings = load_settings(AdminSettings)
        path = _keys_file(options.keys_file, settings)
        if options.command == "create":
            return _create(path, _pepper(settings), options)
        return _list(path) if options.command == "list" else _revoke(path, options.prefix)
    except ConfigurationError as exc:
        sys.stderr.write(f"{exc.message}\n")
        return ExitCode.CONFIGURATION


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="services.gateway.admin", description=__doc__)
    subjects = parser.add_subparsers(dest="subject", required=True)
    commands = subjects.add_parser("key", help="API keys").add_subparsers(dest="command", required=True)
    create = commands.add_parser("create", help="make a key and show it once")
    create.add_argument("--tenant", required=True, help="tenant id: lower-case letters, digits, - and _")
    create.add_argument("--lane", choices=[lane.value for lane in Lane], default=Lane.STANDARD.value)
    create.add_argument("--name", default="", help="what the key is for")
    listing = commands.add_parser("list", help="show every key's prefix, tenant, lane and name")
    revoke = commands.add_parser("revoke", help="delete a key")
    revoke.add_argument("prefix", help="the 8 digits after atl_")
    for command in (create, listing, revoke):
        command.add_argument("--keys-file", type=Path, help="in place of ATELIER_KEYS_FILE")
    return parser


def _keys_file(option: Path | None, settings: AdminSettings) -> Path:
    path = option or settings.keys_file
    if path is None:
        message = "ATELIER_KEYS_FILE: not set, and there is no --keys-file"
        raise ConfigurationError(message)
    return path.resolve()  # what a link points to is replaced, not the link


def _pepper(settings: AdminSettings) -> str:
    if settings.key_pepper is None:
        message = "ATELIER_KEY_PEPPER: not set"
        raise ConfigurationError(message)
    return settings.key_pepper.get_secret_value()


def _create(path: Path, pepper: str, options: argparse.Namespace) -> int:
    with _locked(path):
        records = _read(path)
        key = _unused_key(records)
        try:
            record = KeyRecord.model_validate(
                key_record(key, pepper=pepper, tenant_id=options.tenant, lane=Lane(options.lane), name=options.name)
            )
        except ValidationError as exc:
            sys.stderr.write(f"--tenant: {exc.errors()[0]['msg']}\n")
            return 2
        _write(path, (*records, record))
    print(key)
    return 0


def _unused_key(records: tuple[KeyRecord, ...]) -> str:
    """A new key; one with a prefix that is taken would lock the other key's owner out."""
    taken = {f"atl_{record.prefix}_" for record in records}
    while True:
        key = generate_key()
        if not key.startswith(tuple(taken)):
            return key


def _list(path: Path) -> int:
    for record in _read(path):
        print(f"{record.prefix}  {record.lane:<8}  {record.tenant_id}  {record.name}")
    return 0


def _revoke(path: Path, prefix: str) -> int:
    with _locked(path):
        records = _read(path)
        kept = tuple(record for record in records if record.prefix != prefix)
        if len(kept) == len(records):
            sys.stderr.write(f"there is no key with prefix {prefix}\n")
            return 1
        _write(path, kept)
    return 0


def _read(path: Path) -> tuple[KeyRecord, ...]:
    try:
        return KeysDocument.model_validate_json(path.read_bytes()).keys
    except FileNotFoundError:
        return ()
    except OSError as exc:
        message = f"{path}: {exc.strerror}"
        raise ConfigurationError(message) from exc
    except ValidationError as exc:
        message = f"{path}: not a keys file"
        raise ConfigurationError(message) from exc


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One change at a time: of two that read the same file, the second would undo the first."""
    try:
        folder = os.open(path.parent, os.O_RDONLY)
    except OSError as exc:
        message = f"{path.parent}: {exc.strerror}"
        raise ConfigurationError(message) from exc
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _write(path: Path, records: tuple[KeyRecord, ...]) -> None:
    """Replace the file in one step: a service must never read half of it."""
    text = KeysDocument(keys=records).model_dump_json(indent=2)
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name, delete=False) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
            if path.exists():
                os.fchmod(file.fileno(), path.stat().st_mode & 0o777)  # else another user's services lose the file
        Path(file.name).replace(path)
    except OSError as exc:
        message = f"{path}: {exc.strerror}"
        raise ConfigurationError(message) from exc


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
