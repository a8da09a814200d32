"""The folder that one execution may write to. It is removed after any ending; leftovers are swept at start."""

from __future__ import annotations

import shutil
import threading
from typing import TYPE_CHECKING

from services.worker.errors import WorkFolderError

if TYPE_CHECKING:
    from pathlib import Path


class Sandboxes:
    """Folders ``<root>/<tenant>/<task>/<attempt>-<execution>`` below a root that belongs to one worker alone."""

    def __init__(self, root: Path) -> None:
        self._root = root
        # One thread removes a task's emptied parents while another is about to make a folder below them.
        self._tree = threading.Lock()

    def sweep(self) -> None:
        """Remove what a killed predecessor left."""
        shutil.rmtree(self._root, ignore_errors=True)
        self._root.mkdir(parents=True, mode=0o700, exist_ok=True)

    def create(self, tenant_id: str, task_id: str, attempt: int, execution: str) -> Path:
        """Make an empty folder for one execution. Raises WorkFolderError."""
        folder = self._root / tenant_id / task_id / f"{attempt}-{execution}"
        try:
            with self._tree:
                folder.mkdir(parents=True, mode=0o700)
        except OSError as exc:
            message = f"{folder}: {exc.strerror}"
            raise WorkFolderError(message) from exc
        return folder

    def remove(self, folder: Path) -> None:
        """Remove an execution's folder, and its parents as far as they are empty."""
        shutil.rmtree(folder, ignore_errors=True)
        with self._tree:
            for parent in folder.parents:
                if parent == self._root or not parent.is_relative_to(self._root):
                    return
                try:
                    parent.rmdir()
                except OSError:
                    return  # another execution lives there
