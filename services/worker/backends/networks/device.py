"""What every torch backend does with its device: name it, time its phases, hand memory back, set its precision."""

from __future__ import annotations

import gc
import platform
import time
from typing import TYPE_CHECKING, Any, Final

import torch

from shared.domain.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

PRECISIONS: Final = ("highest", "high", "medium")


class PhaseClock:
    """Seconds of each phase; waits for the device, which otherwise works on after a phase's last call."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._last = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def end(self, phase: str) -> None:
        """Close the phase that began when the last one ended; a phase that comes again is added to."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        now = time.perf_counter()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self._last
        self._last = now


def device_name(device: torch.device) -> str:
    """What the device calls itself."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.processor() or platform.machine()


def hand_back(device: torch.device) -> None:
    """Collect garbage, and give what torch keeps in reserve back to the device."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def set_matmul_precision(card: Mapping[str, Any]) -> None:
    """Set ``[options] float32_matmul_precision`` of a model card. Raises ConfigurationError."""
    precision = card.get("options", {}).get("float32_matmul_precision")
    if precision is None:
        return
    if precision not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        message = f"model card: [options] float32_matmul_precision = {precision!r} is not one of {known}"
        raise ConfigurationError(message)
    torch.set_float32_matmul_precision(precision)
