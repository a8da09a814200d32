from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from services.worker.gate import Gate
from services.worker.gate_metrics import register_gate
from services.worker.gpu import MIB, Device
from services.worker.gpu_fakes import FakeDevice, FakeProbe


class Scraped:
    """A gate, half full with 100 MiB of its own, and what Prometheus sees of it."""

    def __init__(self, **device: float) -> None:
        self.probe = FakeProbe(FakeDevice(total_mb=1_000, free_mb=500, utilisation=0.5).changed(**device))
        self.gate = Gate(Device(self.probe, self.probe.devices()[0]), held_mb=lambda: 100.0)
        self.registry = CollectorRegistry()
        register_gate(self.registry, self.gate)

    def value(self, name: str, /, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"atelier_worker_{name}", labels)


def test_registering_asks_the_device_nothing_and_a_scrape_asks_once() -> None:
    scraped = Scraped()
    assert scraped.probe.samples == 0
    generate_latest(scraped.registry)
    assert scraped.probe.samples == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("device_memory_total_bytes", 1_000 * MIB),
        ("device_memory_free_bytes", 500 * MIB),
        ("device_memory_held_bytes", 100 * MIB),
        ("device_utilisation_ratio", 0.5),
        ("device_score_ratio", 0.5),
        ("device_temperature_celsius", None),
        ("device_power_watts", None),
        ("gate_open", 1),
    ],
)
def test_each_figure_has_its_gauge_and_one_that_is_not_told_has_none(name: str, value: float | None) -> None:
    assert Scraped().value(name) == value


def test_temperature_and_power_appear_where_the_device_tells_them() -> None:
    scraped = Scraped(temperature_c=61.0, power_w=312.5)
    assert (scraped.value("device_temperature_celsius"), scraped.value("device_power_watts")) == (61.0, 312.5)


def test_the_device_is_named() -> None:
    assert Scraped().value("device_info", name="Fake GPU", uuid="GPU-00000000-fake") == 1


def test_a_scrape_sees_figures_of_its_own_moment_without_moving_the_gate() -> None:
    scraped = Scraped()
    assert not scraped.gate.may_take(900)
    scraped.probe.now(free_mb=1_000)
    assert (scraped.value("device_memory_free_bytes"), scraped.value("gate_open")) == (1_000 * MIB, 0)
    assert scraped.gate.problem is not None


def test_a_device_that_does_not_answer_has_no_figures_and_its_gate_is_shut() -> None:
    scraped = Scraped()
    scraped.probe.now(error="GPU is lost")
    assert scraped.value("gate_open") == 0
    assert scraped.value("device_memory_total_bytes") is None
    assert scraped.gate.broken is False
