"""Landlock, the kernel's own sandbox, by its three system calls. Standard library only: it runs in the model's child.

A thread gives up rights for good, for itself and all that it starts later. Rights that a kernel does not know are left
out, so that what is asked for is what this kernel can hold; ``abi`` says which kernel that is.
"""

from __future__ import annotations

import ctypes
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

_CREATE_RULESET: Final = 444  # the same number on every architecture, like the two that follow
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_VERSION_FLAG: Final = 1
_PATH_BENEATH: Final = 1

NEWEST_ABI: Final = 7  # what this module knows; a newer kernel is asked for no more than that

EXECUTE: Final = 1 << 0
WRITE_FILE: Final = 1 << 1
READ_FILE: Final = 1 << 2
READ_DIR: Final = 1 << 3
_MAKE_DEVICES: Final = 1 << 6 | 1 << 11
_ABI_1_FILES: Final = (1 << 13) - 1
REFER: Final = 1 << 13
TRUNCATE: Final = 1 << 14
IOCTL_DEV: Final = 1 << 15
_ON_FILES: Final = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV
_TCP: Final = 0b11  # bind, connect
_SCOPES: Final = 0b11  # abstract local sockets, signals

ABI_OF_TCP: Final = 4
ABI_OF_SCOPES: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Grants:
    """What stays allowed. Paths that cannot be reached are passed over; a folder stands for all below it."""

    read: tuple[Path, ...] = ()  # reading, listing, running
    write: tuple[Path, ...] = ()  # everything but running and making device files
    listed: tuple[Path, ...] = ()  # listing the names in folders
    devices: tuple[Path, ...] = ()  # reading, writing, control


def abi() -> int:
    """The kernel's Landlock version. Raises OSError where there is none, or it is switched off."""
    return _call(_CREATE_RULESET, None, 0, _VERSION_FLAG)


def handled_files(version: int) -> int:
    """Every right on files that a kernel of this version can take away."""
    rights = _ABI_1_FILES
    for since, right in ((2, REFER), (3, TRUNCATE), (5, IOCTL_DEV)):
        if version >= since:
            rights |= right
    return rights


def ruleset_attributes(version: int) -> tuple[int, ...]:
    """The fields of ``landlock_ruleset_attr`` that a kernel of this version has: rights on files, TCP, scopes."""
    fields = [handled_files(version)]
    if version >= ABI_OF_TCP:
        fields.append(_TCP)
    if version >= ABI_OF_SCOPES:
        fields.append(_SCOPES)
    return tuple(fields)


def restrict(grants: Grants) -> int:
    """Take every right from this thread but the granted ones; returns the kernel's version. Raises OSError.

    Needs no_new_privs. Threads that run already keep their rights: call it before there are any.
    """
    found = abi()
    version = min(found, NEWEST_ABI)
    fields = ruleset_attributes(version)
    attributes = (ctypes.c_uint64 * len(fields))(*fields)
    ruleset = _call(_CREATE_RULESET, ctypes.byref(attributes), ctypes.sizeof(attributes), 0)
    try:
        handled = handled_files(version)
        for paths, rights in (
            (grants.read, READ_FILE | READ_DIR | EXECUTE),
            (grants.write, ~(EXECUTE | _MAKE_DEVICES)),
            (grants.listed, READ_DIR),
            (grants.devices, READ_FILE | READ_DIR | WRITE_FILE | TRUNCATE | IOCTL_DEV),
        ):
            for path in paths:
                _allow(ruleset, path, rights & handled)
        _call(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    return found


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            rights &= _ON_FILES
        if rights:
            # struct landlock_path_beneath_attr is packed: eight bytes of rights, four of descriptor.
            rule = rights.to_bytes(8, "little") + place.to_bytes(4, "little")
            _call(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0)
    finally:
        os.close(place)


def _call(number: int, *arguments: object) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    passed = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    result = int(libc.syscall(ctypes.c_long(number), *passed))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
