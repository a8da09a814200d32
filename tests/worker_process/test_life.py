"""How a child comes up, ends, and dies with its parent; and what it can see."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from services.worker.bootstrap import hide_memory
from services.worker.errors import RunnerLoadError
from services.worker.supervisor import RunnerState
from shared.domain.errors import ConfigurationError
from tests.support.runner import BACKENDS, wait_gone
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.runner import RealRunner

ROOT = Path(__file__).parents[2]


def loads(real: RealRunner) -> int:
    return len(list(real.model.glob("load-*")))


@pytest.mark.parametrize(
    ("backend", "reason"),
    [
        (f"{BACKENDS}.loading:RaisesInLoad", "a tensor is missing"),
        (f"{BACKENDS}.raises_on_import:Backend", "a library of the wrong version"),
        (f"{BACKENDS}.missing:Backend", "cannot be imported: No module named"),
        (f"{BACKENDS}.loading:Missing", "cannot be imported: module .* has no attribute 'Missing'"),
        ("nonsense", "unknown backend 'nonsense'; known: diffusers, easyanimate, newbie, simulated"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_an_error_of_the_configuration(
    real: RealRunner, backend: str, reason: str
) -> None:
    supervisor = real.supervise(backend)
    with pytest.raises(ConfigurationError, match=reason):
        supervisor.ensure_ready()


@pytest.mark.parametrize("backend", ["ExitsInLoad", "SegfaultsInLoad"])
def test_a_child_that_dies_while_loading_is_tried_again_within_a_budget(real: RealRunner, backend: str) -> None:
    supervisor = real.supervise(f"{BACKENDS}.loading:{backend}")
    with pytest.raises(RunnerLoadError, match="died 3 times within 300 s"):
        supervisor.ensure_ready()
    assert loads(real) == 3
    assert supervisor.state is RunnerState.DEAD


def test_a_child_that_comes_up_at_the_second_try_is_ready(real: RealRunner) -> None:
    real.supervise(f"{BACKENDS}.loading:ExitsInFirstLoad")
    assert real.run().artifacts
    assert loads(real) == 1


def test_deaths_long_past_do_not_count(real: RealRunner) -> None:
    supervisor = real.supervise(restart_window=0.0)
    for _ in range(4):
        supervisor.ensure_ready()
        real.child().kill()
        until(lambda: supervisor.state is RunnerState.DEAD, 10, "the news of the death")
    assert real.run().artifacts


def test_a_model_that_loads_for_ever_is_killed_after_its_load_budget(real: RealRunner) -> None:
    supervisor = real.supervise(f"{BACKENDS}.loading:HangsInLoad", load_base=0.5)
    with pytest.raises(RunnerLoadError, match=r"not loaded within 0\.5 s"):
        supervisor.ensure_ready()
    assert supervisor.state is RunnerState.DEAD
    assert supervisor.pid is None


def test_a_stop_lets_the_child_end_by_itself(real: RealRunner) -> None:
    real.supervisor.ensure_ready()
    child = real.child()
    real.supervisor.stop(10)
    wait_gone(child)
    assert real.supervisor.state is RunnerState.DEAD


@pytest.mark.parametrize("deed", ["hang_deaf", "hang_with_the_lock"])
def test_a_stop_ends_a_child_that_does_not_listen(real: RealRunner, deed: str) -> None:
    real.supervisor.ensure_ready()
    child = real.child()
    real.begin(deed)
    until(lambda: real.progress, 10, "the model at work")
    real.supervisor.stop(0.1)
    wait_gone(child)


def test_stopping_what_is_dead_returns_at_once(real: RealRunner) -> None:
    real.supervisor.ensure_ready()
    real.child().kill()
    until(lambda: real.supervisor.state is RunnerState.DEAD, 10, "the news of the death")
    fillers = [socket.socketpair() for _ in range(8)]  # which reuse the numbers of the dead child's descriptors
    real.supervisor.stop(3600)
    for pair in fillers:
        for end in pair:
            end.close()


def test_descriptors_and_threads_do_not_pile_up_over_restarts(real: RealRunner) -> None:
    supervisor = real.supervise(restart_window=0.0)
    this = psutil.Process()

    def once() -> None:
        supervisor.ensure_ready()
        real.child().kill()
        until(lambda: supervisor.state is RunnerState.DEAD, 10, "the news of the death")

    once()
    before = this.num_fds(), this.num_threads()
    for _ in range(3):
        once()
    until(lambda: (this.num_fds(), this.num_threads()) <= before, 10, f"no more than {before}")


@pytest.fixture
def parent(real: RealRunner, request: pytest.FixtureRequest) -> Iterator[tuple[subprocess.Popen[str], psutil.Process]]:
    """A parent in a process of its own, and its child at work."""
    command = [sys.executable, "-m", "tests.worker_process.parent", str(real.folder), request.param]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        until((real.folder / "at-work").exists, 10, "the model at work")
        yield process, child
        process.kill()


AT_WORK = ["paint", "hang_deaf", "hang_with_the_lock"]


@pytest.mark.parametrize("parent", AT_WORK, indirect=True)
def test_a_child_dies_with_its_killed_parent(parent: tuple[subprocess.Popen[str], psutil.Process]) -> None:
    process, child = parent
    assert child.ppid() == process.pid
    process.kill()
    process.wait(10)
    wait_gone(child)


@pytest.mark.parametrize("parent", AT_WORK, indirect=True)
def test_a_terminated_parent_ends_its_child(parent: tuple[subprocess.Popen[str], psutil.Process]) -> None:
    process, child = parent
    process.terminate()
    assert process.wait(20) == 0
    wait_gone(child)


def test_a_ctrl_c_for_the_whole_group_is_the_parents_to_decide(real: RealRunner) -> None:
    real.supervisor.ensure_ready()
    first = real.supervisor.pid
    os.kill(first or 0, signal.SIGINT)
    assert real.run().receipt["pid"] == first


def test_the_child_sees_no_secret_and_no_descriptor_of_its_parent(
    real: RealRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ATELIER_S3_SECRET_KEY", "ATELIER_AMQP_URL", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "SOME_PASSWORD"):
        monkeypatch.setenv(name, "a-secret")
    ours, theirs = socket.socketpair()
    with ours, theirs, (real.folder / "open").open("w") as file:
        for descriptor in (ours.fileno(), theirs.fileno(), file.fileno()):
            os.set_inheritable(descriptor, True)
        real.supervise()
        real.run("look_around")
    seen = json.loads((real.folder / "job-1" / "0.png").read_bytes())
    assert "a-secret" not in json.dumps(seen)
    assert not [name for name in seen["environment"] if name.startswith(("ATELIER_", "AWS_"))]
    assert seen["environment"]["HF_HUB_OFFLINE"] == "1"
    kinds = sorted(link.split(":")[0] for link in seen["descriptors"])
    assert kinds == ["/dev/null", "pipe", "pipe", "socket"]


def test_a_parent_that_hides_its_memory_cannot_be_read_by_others_of_its_user() -> None:
    assert hide_memory.__module__ == "services.worker.bootstrap"
    code = (
        "import ctypes; from services.worker.bootstrap import hide_memory; "
        "hide_memory(); print(ctypes.CDLL(None).prctl(3))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "0\n"
