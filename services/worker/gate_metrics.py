"""The device's and the gate's figures for Prometheus, read when they are scraped: between tasks nobody else asks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from services.worker.gate import score
from services.worker.gpu import MIB, DeviceUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client import CollectorRegistry, Metric

    from services.worker.gate import Gate, Look

_PREFIX: Final = "atelier_worker"


def register_gate(registry: CollectorRegistry, gate: Gate) -> None:
    """Add the gauges to a registry. A device that does not answer has no figures, and its gate counts as shut."""
    registry.register(_GateCollector(gate))


class _GateCollector(Collector):
    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def describe(self) -> Iterable[Metric]:
        """Nothing in advance: registering must not ask the device."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """One look for all gauges of a scrape."""
        try:
            look = self._gate.look()
        except DeviceUnavailableError:
            yield _open_gauge(is_open=False)
            return
        yield _open_gauge(is_open=self._gate.problem is None)
        yield from _device_gauges(look)


def _open_gauge(*, is_open: bool) -> Metric:
    return GaugeMetricFamily(f"{_PREFIX}_gate_open", "1 while the gate lets tasks in.", value=float(is_open))


def _device_gauges(look: Look) -> Iterator[Metric]:
    sample = look.sample
    info = GaugeMetricFamily(f"{_PREFIX}_device_info", "1, with the device's names.", labels=["name", "uuid"])
    info.add_metric([sample.name, sample.uuid], 1.0)
    yield info
    for name, text, value in (
        ("memory_total_bytes", "Memory of the device.", sample.total_mb * MIB),
        ("memory_free_bytes", "Memory of the device that nobody holds.", sample.free_mb * MIB),
        ("memory_held_bytes", "Memory of the device that our own child holds.", look.held_mb * MIB),
        ("utilisation_ratio", "Busy share of the device.", sample.utilisation),
        ("score_ratio", "How well the device suits the next task.", score(sample)),
        ("temperature_celsius", "Temperature of the device.", sample.temperature_c),
        ("power_watts", "Power that the device draws.", sample.power_w),
    ):
        if value is not None:
            yield GaugeMetricFamily(f"{_PREFIX}_device_{name}", text, value=value)
