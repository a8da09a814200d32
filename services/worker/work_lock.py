"""Who works in which folder below the common work folder. A lock dies with its holder, so it tells the living apart.

``<work>/<worker id>.lock`` stands beside the worker's folder, where the model's child cannot reach it.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from pathlib import Path
from typing import Final

from services.worker.folders import empty, folder_at
from shared.domain.errors import ConfigurationError
from shared.logging import get_logger

log = get_logger(__name__)

_SUFFIX: Final = ".lock"
_OWNER_CHARS: Final = 300
_TRY_AGAIN_SECONDS: Final = 0.05
_SWEEP_SECONDS: Final = 30.0


class WorkLock:
    """The lock of one worker's folder."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._path = root.with_name(root.name + _SUFFIX)
        self._held: int | None = None

    def take(self, patience_seconds: float) -> None:
        """Take it. Raises ConfigurationError when a living worker has the same id, OSError for an unusable folder."""
        self._path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        end = time.monotonic() + patience_seconds
        while (held := _take(self._path, os.O_CREAT)) is None:
            if time.monotonic() >= end:
                message = (
                    f"worker id {self._root.name!r} is in use in {self._root.parent} ({_owner(self._path)});"
                    " give each worker its own ATELIER_WORKER_ID or ATELIER_WORK_DIR"
                )
                raise ConfigurationError(message)
            time.sleep(_TRY_AGAIN_SECONDS)
        self._held = held
        os.ftruncate(held, 0)
        os.pwrite(held, f"{_host()} process {os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give it up, and remove its file."""
        if self._held is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._held)
            self._held = None

    def sweep_dead(self) -> None:
        """Remove the folders of workers that died on this host. Another host's locks may not be visible here."""
        for path in sorted(self._path.parent.glob(f"*{_SUFFIX}")):
            if path != self._path and _same_host(_owner(path)):
                _sweep(path)


def _sweep(path: Path) -> None:
    root = path.with_name(path.name.removesuffix(_SUFFIX))
    try:
        held = _take(path, 0)
        if held is None:
            return
        try:
            if root.is_dir():
                with folder_at(root) as folder:
                    empty(folder, _SWEEP_SECONDS)
                root.rmdir()
            path.unlink()
        finally:
            os.close(held)
    except OSError as exc:
        log.warning("dead_worker_not_swept", folder=str(root), error_message=str(exc))
    else:
        log.info("dead_worker_swept", folder=str(root))


def _take(path: Path, flags: int) -> int | None:
    """Open and lock a file; None when another holds it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is(path, descriptor):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:
            os.close(descriptor)
            raise
        # Its holder removed the file between our opening and our locking it.
        os.close(descriptor)


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _owner(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[:_OWNER_CHARS].strip()
    except OSError:
        return ""


def _host() -> str:
    return f"host {socket.gethostname()} boot {_boot()}"


def _boot() -> str:
    """What is the same for all containers of a machine, whose host names differ from start to start."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"


def _same_host(owner: str) -> bool:
    match owner.split():
        case ["host", name, "boot", boot, *_]:
            return name == socket.gethostname() or boot == _boot() != "unknown"
        case _:
            return False
