"""The folder that one execution may write to. It is removed after any ending; leftovers are swept at start."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class Sandboxes:
    """Folders ``<root>/<tenant>/<task>/<attempt>-<execution>`` below a root that belongs to one worker alone."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def sweep(self) -> None:
        """Remove what a killed predecessor left."""
        shutil.rmtree(self._root, ignore_errors=True)
        self._root.mkdir(parents=True, mode=0o700, exist_ok=True)

    def create(self, tenant_id: str, task_id: str, attempt: int, execution: str) -> Path:
        """Make an empty folder for one execution."""
        folder = self._root / tenant_id / task_id / f"{attempt}-{execution}"
        folder.mkdir(parents=True, mode=0o700)
        return folder

    def remove(self, folder: Path) -> None:
        """Remove an execution's folder, and its parents as far as they are empty."""
        shutil.rmtree(folder, ignore_errors=True)
        for parent in folder.parents:
            if parent == self._root or not parent.is_relative_to(self._root):
                return
            try:
                parent.rmdir()
            except OSError:
                return  # another execution lives there
