"""Work and model folders among real processes, real rights and real mounts."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from services.worker.sandbox import Sandboxes
from tests.support.builders import TASK_ID, TENANT

ROOT = Path(__file__).parents[2]

WORKER = f"""
import sys, time
from pathlib import Path
from services.worker.sandbox import Sandboxes
sandboxes = Sandboxes(Path(sys.argv[1]))
sandboxes.claim(0)
sandboxes.sweep()
print(sandboxes.create({TENANT!r}, {TASK_ID!r}, 1, "a"), flush=True)
time.sleep(1000)
"""

CHECK = """
import sys
from pathlib import Path
from services.worker.model_check import check_model_folder
print(check_model_folder(Path(sys.argv[1]), require_readonly=True))
print({"torch", "safetensors", "numpy", "PIL"} & set(sys.modules))
"""

# Root without its capabilities meets the same walls as any other user.
REMOVE_AS_NOBODY = """
import sys
from pathlib import Path
from services.worker.confine import _drop_privileges
from services.worker.sandbox import Sandboxes
print(_drop_privileges())
sandboxes = Sandboxes(Path(sys.argv[1]))
sandboxes.sweep()
folder = sandboxes.create("acme", "task", 1, "a")
for name, mode in (("closed", 0), ("frozen", 0o555), ("blind", 0o300)):
    (folder / name / "deep" / "deeper").mkdir(parents=True)
    (folder / name / "deep" / "file").write_bytes(b"x")
    (folder / name / "deep").chmod(mode)
    (folder / name).chmod(mode)
folder.chmod(0)
sandboxes.remove(folder)
print(list(Path(sys.argv[1]).iterdir()))
"""


def python(code: str, *arguments: Path) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


@pytest.mark.parametrize("name", ["worker-1", "worker-2"])
def test_a_killed_worker_s_folder_is_swept_by_the_next_and_a_living_one_s_is_not(tmp_path: Path, name: str) -> None:
    """Whether the next one has the same id or not."""
    with subprocess.Popen(python(WORKER, tmp_path / "worker-1"), cwd=ROOT, stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        folder = Path(worker.stdout.readline().strip())
        other = Sandboxes(tmp_path / "worker-3")
        other.claim(0)
        assert folder.is_dir()
        worker.kill()
        worker.wait(10)
    following = Sandboxes(tmp_path / name)
    following.claim(0)
    following.sweep()
    assert not folder.exists()
    for sandboxes in (following, other):
        sandboxes.release()
    assert list(tmp_path.iterdir()) == []


def test_folders_that_their_maker_closed_are_removed(tmp_path: Path) -> None:
    done = subprocess.run(
        python(REMOVE_AS_NOBODY, tmp_path / "w"), cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["no new ones, no capabilities", "[]"]


def test_a_model_on_a_read_only_mount_is_accepted_where_that_is_required(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    shutil.copy(ROOT / "models" / "simulated" / "atelier.toml", model)
    mounts = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && exec "$2" -c "$3" "$1"'
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-rm", "true"], check=False, capture_output=True).returncode:
        pytest.skip("this user may not make mounts of its own")
    command = [unshare, "-rm", "sh", "-c", mounts, "sh", str(model), sys.executable, CHECK]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["ModelFolder(weight_bytes=0, read_only=True, ignored=())", "set()"], done.stderr
    writable = subprocess.run(python(CHECK, model), cwd=ROOT, capture_output=True, text=True, check=False)
    assert "can be changed by this worker" in writable.stderr
