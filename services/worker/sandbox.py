"""The folder that one execution may write to. It is removed after any ending; leftovers are swept at start.

The model's child can write anywhere below the worker's root, so nothing found there is trusted: see ``folders``.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from typing import TYPE_CHECKING, Final

from services.worker import folders
from services.worker.errors import WorkFolderError
from services.worker.work_lock import WorkLock
from shared.domain.errors import BackendError
from shared.logging import get_logger

if TYPE_CHECKING:
    from pathlib import Path

log = get_logger(__name__)

_HOME: Final = ".child"  # no tenant's id begins with a dot
_FILE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_REMOVE_SECONDS: Final = 30.0
_CLAIM_SECONDS: Final = 5.0
_MEBIBYTE: Final = 1 << 20


class Sandboxes:
    """Folders ``<root>/<tenant>/<task>/<attempt>-<execution>`` below a root that belongs to one worker alone."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._lock = WorkLock(self._root)
        # One thread removes a task's emptied parents while another is about to make a folder below them.
        self._tree = threading.Lock()

    @property
    def root(self) -> Path:
        """All that the model's child may write to."""
        return self._root

    def claim(self, patience_seconds: float = _CLAIM_SECONDS) -> None:
        """Take the root for this process, and remove those of workers that died on this host.

        Raises ConfigurationError when a living worker has the same id, WorkFolderError for an unusable folder.
        """
        try:
            self._lock.take(patience_seconds)
        except OSError as exc:
            raise self._unusable(exc) from exc
        self._lock.sweep_dead()

    def sweep(self) -> None:
        """Make the root, or remove what a killed predecessor left in it. Raises WorkFolderError."""
        try:
            self._root.mkdir(parents=True, mode=0o700, exist_ok=True)
            with folders.folder_at(self._root) as root:
                os.fchmod(root, 0o700)
                folders.empty(root, _REMOVE_SECONDS)
        except OSError as exc:
            raise self._unusable(exc) from exc

    def release(self) -> None:
        """Remove everything and give the root up."""
        try:
            self.sweep()
            self._root.rmdir()
        except (WorkFolderError, OSError) as exc:
            log.warning("work_folder_not_removed", error_message=str(exc))
        self._lock.release()

    def fresh_home(self) -> Path:
        """An empty folder for the child's temporary files and caches, to be made anew for each child.

        Raises WorkFolderError.
        """
        home = self._root / _HOME
        self.remove(home)
        try:
            self._make(home)
        except OSError as exc:
            raise self._unusable(exc) from exc
        return home

    def create(self, tenant_id: str, task_id: str, attempt: int, execution: str) -> Path:
        """Make an empty folder for one execution. Raises WorkFolderError."""
        folder = self._root / tenant_id / task_id / f"{attempt}-{execution}"
        try:
            with self._tree:
                self._make(folder)
        except OSError as exc:
            message = f"{folder}: {exc.strerror}"
            raise WorkFolderError(message) from exc
        return folder

    def remove(self, folder: Path) -> None:
        """Remove an execution's folder, and its parents as far as they are empty. What stays is swept at start."""
        *above, name = self._names(folder)
        try:
            with folders.folder_at(self._root, tuple(above)) as parent:
                folders.remove(parent, name, _REMOVE_SECONDS)
        except FileNotFoundError:
            return
        except OSError as exc:
            log.warning("sandbox_not_removed", folder=str(folder), error_message=str(exc))
            return
        with self._tree:
            while above:
                name = above.pop()
                try:
                    with folders.folder_at(self._root, tuple(above)) as parent:
                        os.rmdir(name, dir_fd=parent)
                except OSError:
                    return  # another execution lives there

    def write_file(self, folder: Path, name: str, body: bytes) -> Path:
        """Write a new file into an execution's folder. Returns its path. Raises WorkFolderError."""
        try:
            with folders.folder_at(self._root, self._names(folder)) as opened:
                folders.write_file(opened, name, body)
        except OSError as exc:
            message = f"{folder}: {exc.strerror}"
            raise WorkFolderError(message) from exc
        return folder / name

    def read_artifact(self, folder: Path, name: str, most_mib: int) -> bytes:
        """The content of a file that the model reported.

        Raises BackendError for what is no ordinary file of its folder (a link, a pipe, a file with a second name) or
        larger than that, OSError when it cannot be read.
        """
        if not _FILE_NAME.fullmatch(name):
            raise _no_file(name)
        try:
            with folders.folder_at(self._root, self._names(folder)) as opened:
                return folders.read_file(opened, name, most_mib * _MEBIBYTE)
        except OSError as exc:
            if exc.errno == errno.EFBIG:
                message = f"{name} is larger than {most_mib} MiB"
                raise BackendError(message) from exc
            if exc.errno in {errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM}:
                raise
            raise _no_file(name) from exc

    def exceeds(self, mebibytes: int) -> bool:
        """Whether all that the child has written takes more than that on disk."""
        return folders.exceeds(self._root, mebibytes * _MEBIBYTE)

    def has_room(self, mebibytes: int) -> bool:
        """Whether so much is free for ordinary users. Raises WorkFolderError."""
        try:
            # A root that somebody removed must not be the end of this worker.
            self._root.mkdir(parents=True, mode=0o700, exist_ok=True)
            found = os.statvfs(self._root)
        except OSError as exc:
            raise self._unusable(exc) from exc
        return found.f_bavail * found.f_frsize >= mebibytes * _MEBIBYTE

    def _make(self, folder: Path) -> None:
        # A root that somebody removed must not be the end of this worker.
        self._root.mkdir(parents=True, mode=0o700, exist_ok=True)
        folders.make_folder(self._root, self._names(folder))

    def _names(self, folder: Path) -> tuple[str, ...]:
        return folder.relative_to(self._root).parts

    def _unusable(self, exc: OSError) -> WorkFolderError:
        return WorkFolderError(f"{self._root}: {exc.strerror}")


def _no_file(name: str) -> BackendError:
    return BackendError(f"the model reported {name[:200]!r}, which is no file of its folder")
