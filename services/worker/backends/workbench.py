"""Where a task meets the model: its memory tier, the ladder, the meter and the guard around one backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.worker.backends.base import Isolation
from services.worker.backends.ladder import climb, rungs
from services.worker.backends.memory import MemoryMeter
from services.worker.backends.pristine.guard import PristineGuard
from shared.domain.errors import BackendError

if TYPE_CHECKING:
    from pathlib import Path

    from services.worker.backends.base import (
        Backend,
        Cancelled,
        Generated,
        GenerationRequest,
        LoadReport,
        Memory,
        Report,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Worked:
    """What a job became, the tier that did it, and what it took."""

    generated: Generated
    tier: str
    memory: Memory


class Workbench:
    """Runs jobs one after the other. ``tier`` is the last one that was tried.

    After ``compute``, whatever its end, ``tidy`` must be called before the next job.
    """

    def __init__(self, backend: Backend, model_dir: Path, device: str) -> None:
        self._backend = backend
        self._model_dir, self._device = model_dir, device
        self._meter = MemoryMeter(device)
        self._guard = PristineGuard()
        # The tier a job gets that names none, the tier that is set ("" while that is unknown), and what to load anew.
        self._home = self._set = self.tier = ""
        self._dirty: frozenset[str] = frozenset()
        self._short = False

    def load(self, tier: str) -> tuple[LoadReport, Memory]:
        """Load the model at this tier, or one down where it does not fit."""
        self._meter.reset()
        self.tier = tier
        report = climb(rungs(self._backend.tiers(), tier), self._load, self._release)
        self._home = self._set
        return report, self._meter.read()

    def compute(self, requests: list[GenerationRequest], tier: str, report: Report, cancelled: Cancelled) -> Worked:
        """Compute a job at this tier ("": the one of loading), or one down where it does not fit.

        Raises what the backend raises, OutOfMemoryError when the lower tier does not fit either, StateLostError.
        """
        wanted = tier or self._home
        self.tier = wanted

        def attempt(rung: str) -> Worked:
            if rung != self._set:
                report("loading")
                self._change_to(rung)
            # What an attempt that did not fit has changed, the next one must not see.
            self._renew()
            return self._attempt(requests, report, cancelled)

        self._short = True
        worked = climb(rungs(self._backend.tiers(), wanted), attempt, self._release)
        self._short = False
        return worked

    def tidy(self) -> None:
        """Free what a failed job left, and load anew what it changed. An error here leaves the model unusable."""
        if self._short:
            self._release()
            self._short = False
        if not self._set:
            self._guard.forget()
            self._backend.unload()
            self._release()
            self._load(self._home)
            self._dirty = frozenset()
        self._renew()

    def unload(self) -> None:
        """Free the device."""
        self._backend.unload()

    def _load(self, tier: str) -> LoadReport:
        self.tier, self._set = tier, ""
        loaded = self._backend.load(self._model_dir, self._device, tier)
        self._set = tier
        return loaded

    def _change_to(self, tier: str) -> None:
        self.tier, self._set = tier, ""
        self._guard.forget()
        self._backend.set_tier(tier)
        self._set = tier

    def _renew(self) -> None:
        if self._dirty:
            # Forgotten first: the guard's copy would keep the old weights in memory.
            self._guard.forget()
            self._backend.reload(self._dirty)
            self._dirty = frozenset()

    def _attempt(self, requests: list[GenerationRequest], report: Report, cancelled: Cancelled) -> Worked:
        guarded = self._backend.guarded()
        self._guard.capture(guarded)
        self._meter.reset()
        try:
            generated = self._backend.generate(requests, report, cancelled)
            memory = self._meter.read()
        finally:
            self._dirty |= self._guard.restore()
            if guarded.isolation is Isolation.RELOAD:
                self._dirty |= guarded.each_time
        if not callable(getattr(generated, "encode", None)):
            message = f"the model returned {type(generated).__name__}, which holds no results"
            raise BackendError(message)
        return Worked(generated=generated, tier=self.tier, memory=memory)

    def _release(self) -> None:
        self._meter.release()
