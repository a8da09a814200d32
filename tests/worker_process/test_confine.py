"""A real child that gave up its rights, and tries everything that it should not be able to do."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from services.worker import landlock
from services.worker.confine import ConfinementPlan, child_folders
from tests.support.random_newbie import make

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


def _landlock_version() -> int:
    try:
        return landlock.abi()
    except OSError:
        return 0


needs_landlock = pytest.mark.skipif(_landlock_version() == 0, reason="this kernel has no Landlock")
needs_scopes = pytest.mark.skipif(_landlock_version() < landlock.ABI_OF_SCOPES, reason="Landlock without scopes")


@dataclass
class Ground:
    """Where a confined child is let loose: its work folder, its model, and things that are not for it."""

    folder: Path
    plan: ConfinementPlan
    port: int

    @property
    def work(self) -> Path:
        return self.plan.work

    @property
    def secret(self) -> Path:
        return self.folder / "secret"

    def run(self, *attempts: tuple[str, object], **changes: Any) -> dict[str, Any]:  # noqa: ANN401 - any field
        """Everything that became of a child."""
        plan = replace(self.plan, **changes)
        given = json.dumps([[name, str(argument)] for name, argument in attempts])
        environment = {"PATH": os.environ["PATH"], **child_folders(self.work / ".child")}
        done = subprocess.run(
            [sys.executable, "-m", "tests.worker_process.confined", plan.to_argument(), given],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    def attempt(self, name: str, argument: object = "", **changes: Any) -> str:  # noqa: ANN401 - any field
        """What became of one attempt."""
        (result,) = self.run((name, argument), **changes)["results"]
        return str(result)


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    for name in ("work", "model", "outside"):
        (tmp_path / name).mkdir()
    (tmp_path / "work" / ".child").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"weights")
    (tmp_path / "secret").write_bytes(b"hunter2")
    plan = ConfinementPlan(
        work=tmp_path / "work",
        model_dir=tmp_path / "model",
        device="cpu",
        backend="tests.worker_process.backends.obedient:ObedientBackend",
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield Ground(tmp_path, plan, server.getsockname()[1])


def test_without_confinement_every_attempt_succeeds(ground: Ground) -> None:
    """Else the tests below would prove nothing."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(ground.folder / "service"))
        server.listen()
        results = ground.run(
            ("write", ground.folder / "outside" / "new"),
            ("write", ground.plan.model_dir / "new"),
            ("read", ground.secret),
            ("rename", f"{ground.secret}|{ground.work}/stolen"),
            ("link", f"{ground.work}/stolen|{ground.work}/second"),
            ("truncate", f"{ground.work}/stolen"),
            ("remove", f"{ground.work}/stolen"),
            ("run_in_the_work_folder", ground.work),
            ("tcp", ground.port),
            ("udp", ground.port),
            ("netlink", ""),
            ("local", ground.folder / "service"),
            ("send_signal", os.getpid()),
            mode="off",
        )["results"]
    assert results == [
        *("written", "written", "hunter2", "renamed", "linked", "truncated", "removed", "ran"),
        *("connected", "sent", "made", "connected", "sent"),
    ]


@needs_landlock
def test_it_writes_in_its_work_folder_and_nowhere_else(ground: Ground) -> None:
    places = (
        ground.work / "new",
        ground.work / ".child" / "new",
        ground.folder / "outside" / "new",
        ground.plan.model_dir / "new",
        ground.plan.model_dir / "weights",
        Path("/dev/shm/new"),  # noqa: S108 - must be refused
        Path("/tmp/atelier-escape"),  # noqa: S108 - must be refused
        Path.home() / "atelier-escape",
        ROOT / "services" / "atelier-escape.py",
    )
    results = ground.run(*(("write", place) for place in places))["results"]
    assert results == ["written", "written", *["EACCES"] * 7]
    assert (ground.plan.model_dir / "weights").read_bytes() == b"weights"


@needs_landlock
def test_it_changes_nothing_outside_in_any_other_way(ground: Ground) -> None:
    weights = ground.plan.model_dir / "weights"
    found = ground.run(
        ("remove", weights),
        ("rename", f"{weights}|{ground.work}/weights"),
        ("link", f"{weights}|{ground.work}/weights"),
        ("truncate", weights),
        ("truncate", ground.secret),
    )["results"]
    # A move or a second name across folders of different rights is refused as if they lay on two disks.
    assert set(found) <= {"EACCES", "EXDEV"}
    assert ground.secret.read_bytes() == b"hunter2"
    assert weights.stat().st_nlink == 1


@needs_landlock
def test_it_reads_its_model_and_the_code_and_no_secret(ground: Ground) -> None:
    found = ground.run(
        ("read", ground.plan.model_dir / "weights"),
        ("names", ground.plan.model_dir),
        ("read", ground.secret),
        ("names", ground.folder),
        ("read", ROOT / "README.md"),
        ("read", "/etc/shadow"),
        ("names", "/etc"),
        ("names", Path.home()),
    )["results"]
    assert found == ["weights", "weights", *["EACCES"] * 6]


@needs_landlock
def test_an_operator_can_open_a_further_folder_for_reading(ground: Ground) -> None:
    found = ground.run(("read", ground.secret), ("write", ground.secret), read=(ground.folder,))["results"]
    assert found == ["hunter2", "EACCES"]


@needs_landlock
def test_it_starts_programs_of_the_system_and_none_that_it_wrote(ground: Ground) -> None:
    found = ground.run(("run", "/bin/echo"), ("run_in_the_work_folder", ground.work))["results"]
    assert found == ["ok", "EACCES"]


def test_it_has_no_network(ground: Ground) -> None:
    found = ground.run(
        ("tcp", ground.port), ("udp", ground.port), ("netlink", ""), ("look_up", "example.org"), ("io_uring", "")
    )["results"]
    assert found[:3] == ["EACCES"] * 3
    assert found[3].startswith("gaierror")
    assert found[4] == "EACCES"


def test_what_it_starts_has_no_network_either(ground: Ground) -> None:
    assert ground.attempt("in_a_program", ground.port) == "PermissionError: [Errno 13] Permission denied"


def test_it_reaches_no_local_service_and_may_talk_to_itself(ground: Ground) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(ground.folder / "service"))
        server.listen()
        found = ground.run(("local", ground.folder / "service"), ("local_pair", ""))["results"]
    assert found == ["EACCES", "through"]


@needs_landlock
def test_it_cannot_look_into_its_parent(ground: Ground) -> None:
    pid = os.getpid()
    kept = "mem", "environ", "maps", "fd/0", "root/etc/passwd", "cwd/README.md"
    found = ground.run(*(("read", f"/proc/{pid}/{name}") for name in kept))["results"]
    assert set(found) <= {"EACCES", "EPERM"}
    assert ground.attempt("read_memory", pid) == "EACCES"


@needs_scopes
def test_it_cannot_signal_its_parent_but_itself(ground: Ground) -> None:
    assert ground.run(("send_signal", os.getpid()), ("signal_itself", ""))["results"] == ["EPERM", "sent"]


def test_it_has_no_capability_and_gets_none(ground: Ground) -> None:
    none = "0" * 16
    assert ground.attempt("become_root_again") == f"{none} {none} 1"


def test_it_leaves_no_core_and_no_file_above_the_bound(ground: Ground) -> None:
    found = ground.run(("limits", ""), ("write_much", ground.work / "much"), most_file_mib=2)["results"]
    assert found == [f"(1, 1) {(2 << 20, 2 << 20)}", "EFBIG"]
    assert (ground.work / "much").stat().st_size <= 2 << 20


def test_what_is_in_force_is_told(ground: Ground) -> None:
    found = ground.run(most_file_mib=1)["confinement"]
    version = _landlock_version()
    assert found["filesystem"] == (f"landlock abi {version}" if version else "none: landlock: Function not implemented")
    assert found["network"].startswith("seccomp")
    assert found["privileges"] == "no new ones, no capabilities"
    assert found["files"] == "1 MiB each"


def test_a_thread_that_runs_already_is_an_error(ground: Ground) -> None:
    code = (
        "import sys, threading; from services.worker.confine import *; "
        "threading.Thread(target=threading.Event().wait, daemon=True).start(); "
        "confine(ConfinementPlan.from_argument(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, ground.plan.to_argument()], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "would keep their rights" in done.stderr
    assert threading.active_count() < 100


def test_the_tiny_model_makes_the_same_picture_confined_and_not(ground: Ground) -> None:
    model = ground.folder / "tiny-newbie"
    make(model)
    shutil.copy(ROOT / "models" / "tiny-newbie" / "atelier.toml", model)
    pictures = []
    for mode in ("off", "require"):
        folder = ground.work / mode
        folder.mkdir()
        found = ground.run(
            *(("picture", folder), ("tcp", ground.port)),
            mode=mode,
            backend="newbie",
            model_dir=model,
            read=(ROOT / "tests",),
        )
        name, connected = found["results"]
        assert connected == ("connected" if mode == "off" else "EACCES")
        pictures.append((folder / name).read_bytes())
    assert pictures[0].startswith(b"\x89PNG")
    assert pictures[0] == pictures[1]
