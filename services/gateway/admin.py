"""``python -m services.gateway.admin key create|list|revoke``: API keys in a keys file.

A key is shown once, when it is made. Gateways and status services read a changed file within seconds.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from shared.auth.keys import KeyRecord, KeysDocument, generate_key, key_record
from shared.config import AuthSettings, load_settings
from shared.domain.errors import ConfigurationError
from shared.domain.task import Lane
from shared.lifecycle import ExitCode

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    """Run one command. Returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        settings = load_settings(AuthSettings)
        path = settings.keys_file
        if options.command == "create":
            return _create(path, settings.key_pepper.get_secret_value(), options)
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
    commands.add_parser("list", help="show every key's prefix, tenant, lane and name")
    commands.add_parser("revoke", help="delete a key").add_argument("prefix", help="the 8 digits after atl_")
    return parser


def _create(path: Path, pepper: str, options: argparse.Namespace) -> int:
    key = generate_key()
    try:
        record = KeyRecord.model_validate(
            key_record(key, pepper=pepper, tenant_id=options.tenant, lane=Lane(options.lane), name=options.name)
        )
    except ValidationError as exc:
        sys.stderr.write(f"--tenant: {exc.errors()[0]['msg']}\n")
        return 2
    _write(path, (*_read(path), record))
    print(key)
    return 0


def _list(path: Path) -> int:
    for record in _read(path):
        print(f"{record.prefix}  {record.lane:<8}  {record.tenant_id}  {record.name}")
    return 0


def _revoke(path: Path, prefix: str) -> int:
    records = _read(path)
    kept = tuple(record for record in records if record.prefix != prefix)
    if len(kept) == len(records):
        sys.stderr.write(f"there is no key with prefix {prefix}\n")
        return 1
    _write(path, kept)
    return 0


def _read(path: Path) -> tuple[KeyRecord, ...]:
    if not path.exists():
        return ()
    try:
        return KeysDocument.model_validate_json(path.read_bytes()).keys
    except ValidationError as exc:
        message = f"{path}: not a keys file"
        raise ConfigurationError(message) from exc


def _write(path: Path, records: tuple[KeyRecord, ...]) -> None:
    """Replace the file in one step: a service must never read half of it."""
    text = KeysDocument(keys=records).model_dump_json(indent=2)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=path.name, delete=False) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(path)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
