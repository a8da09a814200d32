"""The health check of the images, as a container runs it."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry

from shared import probe
from shared.health import Health, HealthServer
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator


class Process:
    def __init__(self) -> None:
        self.problem: str | None = None
        self.server = HealthServer(Health({"broker": lambda: self.problem}), CollectorRegistry(), 0)
        self.server.start()


@pytest.fixture
def process() -> Iterator[Process]:
    it = Process()
    yield it
    it.server.stop()


def check(*ports: int) -> tuple[int, str]:
    command = [sys.executable, "-SI", str(probe.__file__), "/readyz", *map(str, ports)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env={})
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_a_ready_process_is_healthy_whichever_of_the_ports_is_its_own(process: Process) -> None:
    assert check(process.server.port) == (0, "")
    assert check(free_port(), process.server.port) == (0, "")


def test_one_that_is_not_ready_is_unhealthy_and_says_why(process: Process) -> None:
    process.problem = "not connected"
    status, said = check(process.server.port)
    assert status == 1
    assert "503" in said
    assert "not connected" in said


def test_one_that_is_not_there_is_unhealthy() -> None:
    status, said = check(free_port())
    assert status == 1
    assert "nothing listens" in said
