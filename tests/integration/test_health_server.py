from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter

from shared.domain.errors import ConfigurationError
from shared.health import Health, HealthServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def health() -> Health:
    return Health()


@pytest.fixture
def base_url(health: Health) -> Iterator[str]:
    registry = CollectorRegistry()
    Counter("pictures", "pictures made", registry=registry).inc(3)
    server = HealthServer(health, registry, 0)
    server.start()
    yield f"http://127.0.0.1:{server.port}"
    server.stop()


def test_a_server_that_never_served_can_be_stopped_and_its_port_is_free_again(health: Health) -> None:
    server = HealthServer(health, CollectorRegistry(), 0)
    stopping = threading.Thread(target=server.stop, daemon=True)
    stopping.start()
    stopping.join(10)
    assert not stopping.is_alive()
    again = HealthServer(health, CollectorRegistry(), server.port)
    again.stop()


def test_a_port_that_is_taken_is_an_error_of_the_settings(base_url: str, health: Health) -> None:
    port = int(base_url.rsplit(":", 1)[1])
    with pytest.raises(ConfigurationError, match=f"cannot listen on .*:{port}: Address already in use"):
        HealthServer(health, CollectorRegistry(), port)


def test_a_process_that_answers_is_alive_whatever_its_checks_say(base_url: str, health: Health) -> None:
    health.checks["broker"] = lambda: "not connected"
    answer = httpx.get(f"{base_url}/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_it_is_ready_when_every_check_passes(base_url: str, health: Health) -> None:
    health.checks.update(broker=lambda: None, store=lambda: None)
    answer = httpx.get(f"{base_url}/readyz")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ready", "checks": {"broker": "ok", "store": "ok"}}


def test_one_failing_check_makes_it_not_ready_and_is_named(base_url: str, health: Health) -> None:
    health.checks.update(broker=lambda: "not connected", store=lambda: None)
    answer = httpx.get(f"{base_url}/readyz")
    assert answer.status_code == 503
    assert answer.json() == {"status": "not_ready", "checks": {"broker": "not connected", "store": "ok"}}


def test_checks_are_asked_each_time(base_url: str, health: Health) -> None:
    states: list[str | None] = ["starting", None]
    health.checks["model"] = lambda: states.pop(0)
    assert [httpx.get(f"{base_url}/readyz").status_code for _ in range(2)] == [503, 200]


def test_metrics_are_those_of_its_registry(base_url: str) -> None:
    answer = httpx.get(f"{base_url}/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert "pictures_total 3.0" in answer.text


def test_other_paths_are_not_found(base_url: str) -> None:
    assert httpx.get(f"{base_url}/").status_code == 404
    assert httpx.post(f"{base_url}/healthz").status_code == 501


def test_a_stopped_server_frees_its_port() -> None:
    first = HealthServer(Health(), CollectorRegistry(), 0)
    first.start()
    first.stop()
    second = HealthServer(Health(), CollectorRegistry(), first.port)
    second.start()
    assert httpx.get(f"http://127.0.0.1:{second.port}/healthz").status_code == 200
    second.stop()


def test_a_warning_is_named_and_leaves_it_ready(base_url: str, health: Health) -> None:
    health.checks["keys"] = lambda: None
    health.warnings["keys"] = lambda: "the store is away"
    answer = httpx.get(f"{base_url}/readyz")
    assert answer.status_code == 200
    assert answer.json() == {"status": "degraded", "checks": {"keys": "degraded: the store is away"}}
    health.checks["keys"] = lambda: "away for long"
    assert httpx.get(f"{base_url}/readyz").json() == {"status": "not_ready", "checks": {"keys": "away for long"}}
