"""The gate before the device: a task is taken, and later begun, only when its memory is free.

Step one is asked before a message is taken (``may_take``, with what a usual task needs), step two with the message in
hand and before its claim (``admit``, with what this task needs). Needs hold the model itself; what our own child holds
already is therefore ours and not missing. Memory is in MiB.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from services.worker.gpu import DeviceUnavailableError
from shared.logging import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from services.worker.gpu import Device, DeviceSample

log = get_logger(__name__)

HOLD_SECONDS: Final = 60.0
_IDLE_WEIGHT: Final = 0.7
_FREE_WEIGHT: Final = 0.3
_BANDS: Final = 10


class Stop(Protocol):
    """The part of shared.lifecycle.StopSignal that the gate needs."""

    def wait(self, seconds: float) -> bool:
        """Sleep until the stop or the time's end; true when the process shall stop."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GatePolicy:
    """``headroom_mb`` stays free beside every task; ``failed_samples`` in a row make a device a broken one.

    A look counts as the present for ``fresh_seconds``.
    """

    headroom_mb: float = 512.0
    sample_seconds: float = 0.5
    fresh_seconds: float = 0.05
    failed_samples: int = 10


def score(sample: DeviceSample) -> float:
    """How well a device suits the next task, 0 to 1: idle and empty is best."""
    idle = 1 - _share(sample.utilisation, 1.0)
    return _IDLE_WEIGHT * idle + _FREE_WEIGHT * _share(sample.free_mb, sample.total_mb)


def choose(samples: Sequence[DeviceSample]) -> int:
    """The place of the device with the best score, the first of equals. Raises DeviceUnavailableError for none."""
    if not samples:
        message = "there is no device to choose from"
        raise DeviceUnavailableError(message)
    return max(range(len(samples)), key=lambda place: (score(samples[place]), -place))


def consumer_priority(sample: DeviceSample) -> int:
    """The band, 0 to 9, of a consumer on this device: the broker serves higher ones first."""
    return min(_BANDS - 1, int(score(sample) * _BANDS))


@dataclass(frozen=True, slots=True)
class ChildMemory:
    """What our own child holds on the device, in MiB.

    The device's own list of processes is asked first. In a container it may know other process ids than we do: then the
    child's last own word counts (``reported``, MiB), which leaves out what its context takes.
    """

    device: Device
    pid: Callable[[], int | None]
    reported: Callable[[], float] = lambda: 0.0

    def __call__(self) -> float:
        """MiB, 0 without a child. Raises DeviceUnavailableError."""
        pid = self.pid()
        if pid is None:
            return 0.0
        seen = self.device.used_mb(pid)
        return self.reported() if seen is None else seen


@dataclass(frozen=True, slots=True)
class Look:
    """One good look at the device."""

    sample: DeviceSample
    held_mb: float

    @property
    def available_mb(self) -> float:
        """Free memory and our own; never more than the device has."""
        return min(self.sample.total_mb, self.sample.free_mb + max(0.0, self.held_mb))


class Gate:
    """Opens for a task that fits. The main thread asks for room; any thread may ask ``look`` and read ``problem``.

    While the device does not answer the gate is shut, and no error of it leaves this class.
    """

    def __init__(
        self,
        device: Device,
        held_mb: Callable[[], float],
        policy: GatePolicy | None = None,
        *,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._device = device
        self._held_mb = held_mb
        self._policy = policy or GatePolicy()
        self._monotonic = monotonic
        self._driver = ""
        self._failures = 0
        self._last: Look | None = None
        self._seen_at = 0.0
        self._problem: str | None = None

    @property
    def problem(self) -> str | None:
        """Why the gate is shut, for /readyz; None while it is open."""
        return self._problem

    @property
    def broken(self) -> bool:
        """Whether the device has failed so many times in a row that waiting here is of no use."""
        return self._failures >= self._policy.failed_samples

    @property
    def sample_seconds(self) -> float:
        """How long to wait before asking again."""
        return self._policy.sample_seconds

    def may_take(self, need_mb: float) -> bool:
        """Step one: whether a usual task would fit now."""
        return self._try(need_mb) is not None

    def admit(self, need_mb: float, hold_seconds: float, stop: Stop) -> bool:
        """Step two: wait until this task fits, ``hold_seconds`` at most.

        False: hand the message on, the same attempt. That comes early when the process shall stop, when the device is
        broken, and when the task could not fit into an empty device.
        """
        began = self._monotonic()
        admitted = self._hold(need_mb, began + hold_seconds, stop)
        waited = round(self._monotonic() - began, 3)
        if not admitted:
            log.warning("task_not_admitted", need_mb=round(need_mb), waited_seconds=waited, reason=self._problem)
        elif waited >= self._policy.sample_seconds:
            log.info("task_admitted", need_mb=round(need_mb), waited_seconds=waited)
        return admitted

    def fits_now(self, need_mb: float) -> bool:
        """Whether a task would fit at this moment; the gate itself stays as it is."""
        try:
            return self._missing(self.look(), need_mb) <= 0
        except DeviceUnavailableError as exc:
            log.debug("device_sample_failed", error_code=exc.code, error_message=exc.message)
            return False

    def could_fit(self, need_mb: float) -> bool:
        """Whether a task would fit if nobody else used the device. True while the device has never answered."""
        return self._last is None or need_mb + self._policy.headroom_mb <= self._last.sample.total_mb

    def priority(self) -> int:
        """The consumer's band from the last good look; the lowest while the gate is shut or was never asked."""
        return 0 if self._last is None or self._problem is not None else consumer_priority(self._last.sample)

    def figures(self) -> dict[str, str | int | float]:
        """The device as it was at the last good look, which before a task's start is the one that let it in."""
        if self._last is None:
            return {}
        sample = self._last.sample
        figures: dict[str, str | int | float] = {
            "device_name": sample.name,
            "device_uuid": sample.uuid,
            "device_total_mb": round(sample.total_mb),
            "device_free_mb": round(sample.free_mb),
            "device_held_mb": round(self._last.held_mb),
            "device_utilisation": round(sample.utilisation, 3),
        }
        return {**figures, "driver_version": self._driver} if self._driver else figures

    def look(self) -> Look:
        """Ask the device now, without any effect on the gate. Raises DeviceUnavailableError."""
        return Look(self._device.sample(), self._held_mb())

    def _hold(self, need_mb: float, until: float, stop: Stop) -> bool:
        if self._fits_as_just_seen(need_mb):
            return True
        while self._try(need_mb) is None:
            left = until - self._monotonic()
            if left <= 0 or self.broken or not self.could_fit(need_mb):
                return False
            if stop.wait(min(left, self._policy.sample_seconds)):
                return False
        return True

    def _fits_as_just_seen(self, need_mb: float) -> bool:
        # Step one has looked a moment ago when a message was waiting; a second look costs what a start could use.
        if self._last is None or self._problem is not None:
            return False
        age = self._monotonic() - self._seen_at
        return age <= self._policy.fresh_seconds and self._missing(self._last, need_mb) <= 0

    def _missing(self, look: Look, need_mb: float) -> float:
        return need_mb + self._policy.headroom_mb - look.available_mb

    def _try(self, need_mb: float) -> Look | None:
        """One look, with its effect on the gate: the look when the need fits."""
        try:
            look = self.look()
            self._driver = self._driver or self._device.probe.driver()
        except DeviceUnavailableError as exc:
            self._fail(exc)
            return None
        if self._failures:
            log.info("device_answers_again", failed_samples=self._failures)
        self._failures, self._last, self._seen_at = 0, look, self._monotonic()
        missing = self._missing(look, need_mb)
        self._turn(None if missing <= 0 else _lack(look, need_mb, self._policy.headroom_mb))
        return look if missing <= 0 else None

    def _fail(self, error: DeviceUnavailableError) -> None:
        self._failures += 1
        if self._failures in {1, self._policy.failed_samples}:
            log.warning(
                "device_sample_failed",
                error_code=error.code,
                error_message=error.message,
                failed_samples=self._failures,
                broken=self.broken,
            )
        self._turn(error.message)

    def _turn(self, problem: str | None) -> None:
        was, self._problem = self._problem, problem
        if (was is None) != (problem is None):
            log.info("gate_opened" if problem is None else "gate_shut", reason=problem or was)


def _lack(look: Look, need_mb: float, headroom_mb: float) -> str:
    sample = look.sample
    return (
        f"{need_mb:.0f} MiB and {headroom_mb:.0f} MiB of headroom are needed: {sample.free_mb:.0f} of"
        f" {sample.total_mb:.0f} MiB are free and {look.held_mb:.0f} MiB are our own"
    )


def _share(part: float, whole: float) -> float:
    return min(1.0, max(0.0, part / whole)) if whole > 0 else 0.0
