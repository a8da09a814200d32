"""Models that do not come up, each in its own way."""

from __future__ import annotations

import atexit
import ctypes
import os
import signal
import sys
import time
from typing import TYPE_CHECKING

from services.worker.backends.base import OutOfMemoryError
from tests.worker_process.backends.obedient import LONG, ObedientBackend

if TYPE_CHECKING:
    from pathlib import Path

    from services.worker.backends.base import LoadReport


class RaisesInLoad(ObedientBackend):
    def load(self, model_dir: Path, device: str, tier: str) -> LoadReport:
        del model_dir, device, tier
        message = "a tensor is missing"
        raise KeyError(message)


class ExitsInLoad(ObedientBackend):
    def load(self, model_dir: Path, device: str, tier: str) -> LoadReport:
        del device, tier
        (model_dir / f"load-{os.getpid()}").touch()
        sys.exit(0)


class ExitsInFirstLoad(ObedientBackend):
    def load(self, model_dir: Path, device: str, tier: str) -> LoadReport:
        if not list(model_dir.glob("load-*")):
            (model_dir / f"load-{os.getpid()}").touch()
            os._exit(9)
        return super().load(model_dir, device, tier)


class HangsInLoad(ObedientBackend):
    def load(self, model_dir: Path, device: str, tier: str) -> LoadReport:
        del model_dir, device, tier
        time.sleep(LONG)
        raise AssertionError


class FindsNoMemoryAtFirst(ObedientBackend):
    """Says so, and takes its time to end."""

    def load(self, model_dir: Path, device: str, tier: str) -> LoadReport:
        if not list(model_dir.glob("load-*")):
            (model_dir / f"load-{os.getpid()}").touch()
            atexit.register(time.sleep, 1)
            raise OutOfMemoryError
        (model_dir / f"load-{os.getpid()}").touch()
        return super().load(model_dir, device, tier)


class KillsItselfInLoad(ObedientBackend):
    def load(self, model_dir: Path, device: str, tier: str) -> LoadReport:
        del device, tier
        (model_dir / f"load-{os.getpid()}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


class SegfaultsInLoad(ObedientBackend):
    def load(self, model_dir: Path, device: str, tier: str) -> LoadReport:
        del device, tier
        (model_dir / f"load-{os.getpid()}").touch()
        ctypes.string_at(0)
        raise AssertionError
