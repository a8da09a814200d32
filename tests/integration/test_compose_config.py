"""Compose itself accepts the files, alone and with the GPUs' file on top. Nothing is started."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import Any

import pytest

from tests.support.compose import COMPOSE, GPU, ROOT


def compose(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [shutil.which("docker") or "docker", "compose", "--env-file", "/dev/null", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


pytestmark = pytest.mark.skipif(
    shutil.which("docker") is None or compose("version").returncode != 0, reason="Docker Compose is not installed"
)


def config(*files: str) -> dict[str, Any]:
    named = [argument for file in files for argument in ("-f", file)]
    done = compose(*named, "config", "--format", "json")
    assert done.returncode == 0, done.stderr
    services: dict[str, Any] = json.loads(done.stdout)["services"]
    return services


def test_the_file_is_valid() -> None:
    services = config(str(COMPOSE))
    assert services["worker"]["environment"]["ATELIER_WORKER_MODEL"] == "tiny-newbie"
    assert "worker-newbie" not in services


def test_gpu_workers_keep_what_locks_the_cpu_worker_in() -> None:
    services = config(str(COMPOSE), str(GPU))
    assert "worker" not in services
    for name in ("worker-newbie", "worker-easyanimate"):
        worker = services[name]
        assert worker["read_only"] is True
        assert worker["cap_drop"] == ["ALL"]
        assert worker["networks"].keys() == {"backend", "storage"}
        assert all(mount["read_only"] for mount in worker["volumes"])
        assert worker["environment"]["ATELIER_REQUIRE_READONLY_MODELS"] == "true"
        assert worker["image"].startswith("atelier/worker-gpu:")
    assert services["gateway"]["environment"]["ATELIER_MODELS"] == "newbie-image-exp0.1,easyanimate-v5.1-7b"
