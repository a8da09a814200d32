"""A model with four memory tiers, which fit as the prompt says, and one that must be loaded anew between tasks."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from services.worker.backends.base import Guarded, Isolation
from tests.worker_process.backends.obedient import LONG, ObedientBackend, Picture

if TYPE_CHECKING:
    from pathlib import Path

    from services.worker.backends.base import Cancelled, Generated, GenerationRequest, LoadReport, Report

TIERS = ("resident", "tiled", "offload", "sequential")


class TieredBackend(ObedientBackend):
    """The prompt: the tiers at which the job does not fit, with commas. Its picture holds the tier that made it."""

    def __init__(self) -> None:
        self._tier = ""

    def tiers(self) -> tuple[str, ...]:
        return TIERS

    def load(self, model_dir: Path, device: str, tier: str) -> LoadReport:
        if (model_dir / f"too-big-{tier}").exists():
            message = "CUDA error: out of memory"
            raise RuntimeError(message)
        self._tier = tier
        return super().load(model_dir, device, tier)

    def set_tier(self, tier: str) -> None:
        self._tier = tier

    def generate(self, requests: list[GenerationRequest], report: Report, cancelled: Cancelled) -> Generated:
        del cancelled
        (request,) = requests
        report("denoising", 1, request.steps)
        if self._tier in request.prompt.split(","):
            message = f"cuDNN error: CUDNN_STATUS_ALLOC_FAILED at {self._tier}"
            raise RuntimeError(message)
        return Picture(request, self._tier.encode())


class ReloadedBackend(ObedientBackend):
    """Asks for policy ``reload``, and does it as its folder says."""

    def __init__(self) -> None:
        self._folder: Path | None = None

    def load(self, model_dir: Path, device: str, tier: str) -> LoadReport:
        self._folder = model_dir
        return super().load(model_dir, device, tier)

    def guarded(self) -> Guarded:
        return Guarded(isolation=Isolation.RELOAD, each_time=frozenset({"weights"}))

    def reload(self, parts: frozenset[str]) -> None:
        assert parts == {"weights"}
        assert self._folder is not None
        (self._folder / f"reload-{time.monotonic_ns()}").touch()
        if (self._folder / "fail").exists():
            message = "the disk is gone"
            raise OSError(message)
        if (self._folder / "hang").exists():
            time.sleep(LONG)
        if (self._folder / "exit").exists():
            os._exit(5)
