"""Folders that another process may change under our hands: nothing here follows a link that it may have put there.

Every step goes from an open folder to a name in it, so that no path is looked up twice. Errors are OSError.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PLACE: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# A FIFO would block an ordinary open until somebody writes to it.
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PRIVATE: Final = 0o700
_BLOCK: Final = 512
_MOST_NAMES: Final = 100_000
_MOST_LEVELS: Final = 32


@contextmanager
def folder_at(root: Path, names: tuple[str, ...] = ()) -> Iterator[int]:
    """The descriptor of the folder ``root/names[0]/names[1]/...``; only ``root`` itself is trusted."""
    folder = os.open(root, _FOLDER)
    try:
        for name in names:
            above, folder = folder, _open(name, folder)
            os.close(above)
        yield folder
    finally:
        os.close(folder)


def make_folder(root: Path, names: tuple[str, ...]) -> None:
    """Make ``root/names...``. The last must be new; what stands in the way above it and is no folder is removed."""
    with folder_at(root) as top:
        folder = os.dup(top)
        try:
            for name in names[:-1]:
                above, folder = folder, _make_or_open(name, folder)
                os.close(above)
            os.mkdir(names[-1], _PRIVATE, dir_fd=folder)
        finally:
            os.close(folder)


def read_file(folder: int, name: str, most_bytes: int) -> bytes:
    """The content of a regular file with one name. Raises OSError: EFBIG for a larger one, EINVAL for another kind."""
    descriptor = os.open(name, _FILE, dir_fd=folder)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), name)
        # Again after reading: whoever writes it may still be at it.
        body = b"" if found.st_size > most_bytes else file.read(most_bytes + 1)
        if max(found.st_size, len(body)) > most_bytes:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), name)
    return body


def write_file(folder: int, name: str, body: bytes) -> None:
    """Write a new file. Raises OSError: EEXIST where anything bears the name, a link that leads nowhere as well."""
    with os.fdopen(os.open(name, _NEW_FILE, 0o600, dir_fd=folder), "wb") as file:
        file.write(body)


def exceeds(root: Path, most_bytes: int) -> bool:
    """Whether everything below takes more on disk, or has more names or levels than any model makes.

    Names that come and go meanwhile are passed over.
    """
    waiting: list[tuple[str, ...]] = [()]
    total = seen = 0
    while waiting:
        names = waiting.pop()
        if len(names) > _MOST_LEVELS:
            return True
        with suppress(OSError), folder_at(root, names) as folder, os.scandir(folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    total += entry.stat(follow_symlinks=False).st_blocks * _BLOCK
                seen += 1
                if seen > _MOST_NAMES or total > most_bytes:
                    return True
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((*names, entry.name))
    return False


def empty(folder: int, seconds: float) -> None:
    """Remove everything below, however deep it is nested and whoever may enter it.

    Raises OSError for what cannot be removed, TimeoutError when it takes longer: a process still writes there.
    """
    end = time.monotonic() + seconds
    handled = 1
    while handled:
        handled, trouble = 0, None
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    _remove(folder, entry.name, end)
                except TimeoutError:
                    raise
                except OSError as exc:
                    trouble = exc
                else:
                    handled += 1
        if trouble is not None and not handled:
            raise trouble


def remove(above: int, name: str, seconds: float) -> None:
    """Remove what bears that name in a folder, a link itself and not what it leads to. Raises like ``empty``."""
    if stat.S_ISDIR(os.lstat(name, dir_fd=above).st_mode):
        folder = _open(name, above)
        try:
            empty(folder, seconds)
        finally:
            os.close(folder)
        os.rmdir(name, dir_fd=above)
    else:
        os.unlink(name, dir_fd=above)


def _remove(top: int, name: str, end: float) -> None:
    if not stat.S_ISDIR(os.lstat(name, dir_fd=top).st_mode):
        os.unlink(name, dir_fd=top)
        return
    folder = _open(name, top)
    try:
        # A folder that changes while it is read may hide names: read again until there are none.
        while _clear(folder, top, end):
            pass
    finally:
        os.close(folder)
    os.rmdir(name, dir_fd=top)


def _clear(folder: int, top: int, end: float) -> int:
    handled = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            if time.monotonic() > end:
                raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
            if entry.is_dir(follow_symlinks=False):
                # Moved up instead of descended into: a folder may be nested deeper than we have descriptors.
                os.close(_open(entry.name, folder))
                os.rename(entry.name, secrets.token_hex(16), src_dir_fd=folder, dst_dir_fd=top)
            else:
                os.unlink(entry.name, dir_fd=folder)
            handled += 1
    return handled


def _open(name: str, above: int) -> int:
    """Open a folder by its name in another; one that its maker closed to us is opened to us again."""
    try:
        folder = os.open(name, _FOLDER, dir_fd=above)
    except PermissionError:
        place = os.open(name, _PLACE, dir_fd=above)
        try:
            # The only way to change the mode of what is open, and not of what bears the name by now.
            Path(f"/proc/self/fd/{place}").chmod(_PRIVATE)
        finally:
            os.close(place)
        return os.open(name, _FOLDER, dir_fd=above)
    if os.fstat(folder).st_mode & _PRIVATE != _PRIVATE:
        os.fchmod(folder, _PRIVATE)
    return folder


def _make_or_open(name: str, above: int) -> int:
    for _ in range(2):
        with suppress(FileExistsError):
            os.mkdir(name, _PRIVATE, dir_fd=above)
        try:
            return _open(name, above)
        except OSError as exc:
            if exc.errno not in {errno.ELOOP, errno.ENOTDIR}:
                raise
            os.unlink(name, dir_fd=above)
    raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), name)
