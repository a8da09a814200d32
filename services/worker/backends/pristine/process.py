"""What belongs to the whole process: random numbers, environment, working folder, import path, warning filters."""

from __future__ import annotations

import os
import random
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.worker.backends.pristine.config import environment, restore_environment
from services.worker.backends.pristine.setting import Setting
from services.worker.backends.pristine.torch_state import torch_settings

if TYPE_CHECKING:
    from collections.abc import Iterator


class ProcessState:
    """A copy of the process's state, to be written back any number of times."""

    def __init__(self) -> None:
        self._before = [(setting, setting.read()) for setting in (*_settings(), *torch_settings())]

    def restore(self) -> list[str]:
        """Write back what differs, and return its names. Raises whatever writing a setting raises."""
        return [setting.name for setting, before in self._before if setting.restore(before)]


def _settings() -> Iterator[Setting]:
    yield Setting("folder", _folder, os.chdir)
    yield Setting("environment", environment, restore_environment)
    yield Setting("warnings", _warnings, _restore_warnings)
    yield Setting("import_path", lambda: list(sys.path), lambda paths: sys.path.__setitem__(slice(None), paths))
    yield Setting("random", random.getstate, random.setstate)
    if "numpy.random" in sys.modules:
        legacy = sys.modules["numpy.random"]
        yield Setting("numpy_random", legacy.get_state, legacy.set_state, comparable=False)


def _folder() -> Path | None:
    try:
        return Path.cwd()
    except FileNotFoundError:
        return None


def _warnings() -> tuple[list[Any], Any]:
    return list(warnings.filters), warnings.showwarning


def _restore_warnings(before: tuple[list[Any], Any]) -> None:
    filters, show = before
    # resetwarnings tells the interpreter's caches that the list has changed; the list alone would not.
    warnings.resetwarnings()
    warnings.filters[:] = filters  # type: ignore[index] # typed as a sequence, documented as the list that it is
    warnings.showwarning = show
