from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
import threading
from pathlib import Path

import pytest

from services.worker.errors import WorkFolderError
from services.worker.sandbox import Sandboxes
from shared.domain.errors import BackendError, ConfigurationError
from tests.support.builders import TASK_ID, TENANT


@pytest.fixture
def sandboxes(tmp_path: Path) -> Sandboxes:
    made = Sandboxes(tmp_path / "work" / "worker-1")
    made.sweep()
    return made


def test_every_execution_has_a_folder_of_its_own_that_only_its_user_may_enter(
    sandboxes: Sandboxes, tmp_path: Path
) -> None:
    first, second = (sandboxes.create(TENANT, TASK_ID, 1, execution) for execution in ("a", "b"))
    assert first == tmp_path / "work" / "worker-1" / TENANT / TASK_ID / "1-a"
    assert first != second
    assert stat.S_IMODE(first.stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "work" / "worker-1").stat().st_mode) == 0o700


def test_removing_leaves_nothing_but_what_others_use(sandboxes: Sandboxes, tmp_path: Path) -> None:
    first, second = (sandboxes.create(TENANT, TASK_ID, 1, execution) for execution in ("a", "b"))
    (first / "deep").mkdir()
    (first / "deep" / "0.png").write_bytes(b"1")
    sandboxes.remove(first)
    assert second.is_dir()
    sandboxes.remove(second)
    assert list((tmp_path / "work" / "worker-1").iterdir()) == []
    sandboxes.remove(second)


def test_links_are_removed_and_not_followed(sandboxes: Sandboxes, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_bytes(b"1")
    folder = sandboxes.create(TENANT, TASK_ID, 1, "a")
    (folder / "link").symlink_to(outside)
    sandboxes.remove(folder)
    assert (outside / "keep").exists()
    assert not folder.exists()


def test_a_sweep_removes_what_a_killed_predecessor_left(sandboxes: Sandboxes, tmp_path: Path) -> None:
    (sandboxes.create(TENANT, TASK_ID, 1, "a") / "0.png").write_bytes(b"1")
    Sandboxes(tmp_path / "work" / "worker-1").sweep()
    assert list((tmp_path / "work" / "worker-1").iterdir()) == []


def test_a_root_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"1")
    with pytest.raises(WorkFolderError, match="file/acme"):
        Sandboxes(tmp_path / "file").create(TENANT, TASK_ID, 1, "a")


@pytest.mark.exhaustive
def test_folders_of_one_tenant_come_and_go_in_two_threads(sandboxes: Sandboxes) -> None:
    """The finisher removes a task's emptied parents while the next task of the same tenant gets its folder."""
    failures: list[BaseException] = []

    def hammer(name: str) -> None:
        try:
            for number in range(300):
                sandboxes.remove(sandboxes.create(TENANT, TASK_ID, number, name))
        except WorkFolderError as exc:
            failures.append(exc)

    threads = [threading.Thread(target=hammer, args=(name,)) for name in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def refused(sandboxes: Sandboxes, folder: Path, name: str) -> str:
    with pytest.raises(BackendError) as caught:
        sandboxes.read_artifact(folder, name, 1)
    return caught.value.message


def test_a_file_that_the_model_wrote_is_read(sandboxes: Sandboxes) -> None:
    folder = sandboxes.create(TENANT, TASK_ID, 1, "a")
    (folder / "0.png").write_bytes(b"picture")
    assert sandboxes.read_artifact(folder, "0.png", 1) == b"picture"


def test_what_is_no_ordinary_file_of_the_folder_is_refused_and_nothing_waits(
    sandboxes: Sandboxes, tmp_path: Path
) -> None:
    folder = sandboxes.create(TENANT, TASK_ID, 1, "a")
    (tmp_path / "secret").write_bytes(b"hunter2")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "second").hardlink_to(tmp_path / "secret")
    (folder / "folder").mkdir()
    os.mkfifo(folder / "pipe")
    os.mknod(folder / "socket", stat.S_IFSOCK)
    for name in ("link", "second", "folder", "pipe", "socket", "missing"):
        assert refused(sandboxes, folder, name) == f"the model reported {name!r}, which is no file of its folder"


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../0.png", "a/b.png", "/etc/passwd", "a\0b", ".hidden", "x" * 101, "ä"]
)
def test_a_name_that_is_no_plain_name_is_refused(sandboxes: Sandboxes, name: str) -> None:
    folder = sandboxes.create(TENANT, TASK_ID, 1, "a")
    (folder.parent / "0.png").write_bytes(b"1")
    assert "which is no file of its folder" in refused(sandboxes, folder, name)


def test_a_file_above_the_bound_is_refused_though_it_takes_no_room(sandboxes: Sandboxes) -> None:
    folder = sandboxes.create(TENANT, TASK_ID, 1, "a")
    with (folder / "0.png").open("wb") as file:
        file.truncate(1 << 40)
    assert refused(sandboxes, folder, "0.png") == "0.png is larger than 1 MiB"
    (folder / "0.png").write_bytes(b"x" * (1 << 20))
    assert len(sandboxes.read_artifact(folder, "0.png", 1)) == 1 << 20


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder that looks like a tenant's from within, and is not below the root."""
    folder = tmp_path / "elsewhere"
    (folder / TASK_ID / "1-a").mkdir(parents=True)
    (folder / TASK_ID / "1-a" / "0.png").write_bytes(b"another's")
    return folder


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_folder_that_was_replaced_by_a_link_is_neither_read_nor_emptied(
    sandboxes: Sandboxes, tmp_path: Path, elsewhere: Path, depth: int
) -> None:
    folder = sandboxes.create(TENANT, TASK_ID, 1, "a")
    replaced = (folder, *folder.parents)[3 - depth]
    shutil.rmtree(replaced)
    replaced.symlink_to(elsewhere.joinpath(*folder.relative_to(tmp_path / "work" / "worker-1").parts[1:depth]))
    assert (folder / "0.png").read_bytes() == b"another's"
    assert "no file of its folder" in refused(sandboxes, folder, "0.png")
    sandboxes.remove(folder)
    sandboxes.sweep()
    assert (elsewhere / TASK_ID / "1-a" / "0.png").exists()
    assert list((tmp_path / "work" / "worker-1").iterdir()) == []


@pytest.mark.parametrize("kind", ["link", "file"])
def test_what_stands_in_the_way_of_a_new_folder_is_removed(
    sandboxes: Sandboxes, tmp_path: Path, elsewhere: Path, kind: str
) -> None:
    place = tmp_path / "work" / "worker-1" / TENANT
    if kind == "link":
        place.symlink_to(elsewhere)
    else:
        place.write_bytes(b"")
    folder = sandboxes.create(TENANT, TASK_ID, 2, "b")
    assert folder.resolve() == folder
    assert not (elsewhere / TASK_ID / "2-b").exists()


def test_an_execution_s_folder_must_be_new(sandboxes: Sandboxes) -> None:
    sandboxes.create(TENANT, TASK_ID, 1, "a")
    with pytest.raises(WorkFolderError, match="File exists"):
        sandboxes.create(TENANT, TASK_ID, 1, "a")


def test_a_full_disk_is_named(sandboxes: Sandboxes, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.mkdir", full)
    with pytest.raises(WorkFolderError, match="1-a: No space left on device"):
        sandboxes.create(TENANT, TASK_ID, 1, "a")


def test_room_is_measured(sandboxes: Sandboxes) -> None:
    assert sandboxes.has_room(0)
    assert not sandboxes.has_room(1 << 40)


def test_what_was_written_is_measured_without_holes_and_beyond_links(sandboxes: Sandboxes, tmp_path: Path) -> None:
    folder = sandboxes.create(TENANT, TASK_ID, 1, "a")
    (tmp_path / "large").write_bytes(b"x" * (2 << 20))
    (folder / "link").symlink_to(tmp_path)
    with (folder / "holes").open("wb") as file:
        file.truncate(1 << 40)
    assert not sandboxes.exceeds(1)
    (folder / "deep").mkdir()
    (folder / "deep" / "large").write_bytes(b"x" * (2 << 20))
    assert sandboxes.exceeds(1)
    assert not sandboxes.exceeds(3)


def test_more_levels_than_any_model_makes_exceed_every_bound(sandboxes: Sandboxes) -> None:
    folder = sandboxes.create(TENANT, TASK_ID, 1, "a")
    folder.joinpath(*["d"] * 40).mkdir(parents=True)
    assert sandboxes.exceeds(1000)


@pytest.mark.exhaustive
def test_a_nest_deeper_than_any_stack_and_any_path_is_removed(sandboxes: Sandboxes) -> None:
    folder = sandboxes.create(TENANT, TASK_ID, 1, "a")
    at = os.open(folder, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("deeper", dir_fd=at)
        above, at = at, os.open("deeper", os.O_RDONLY, dir_fd=at)
        os.close(above)
    os.close(at)
    sandboxes.remove(folder)
    assert not folder.exists()


def test_a_home_is_made_anew(sandboxes: Sandboxes, tmp_path: Path) -> None:
    home = sandboxes.fresh_home()
    (home / "cache").write_bytes(b"1")
    assert sandboxes.fresh_home() == home == tmp_path / "work" / "worker-1" / ".child"
    assert list(home.iterdir()) == []
    shutil.rmtree(home)
    home.symlink_to(tmp_path)
    assert sandboxes.fresh_home().resolve() == home


def test_a_root_that_is_open_to_others_is_closed(tmp_path: Path) -> None:
    (tmp_path / "worker-1").mkdir(mode=0o755)
    Sandboxes(tmp_path / "worker-1").sweep()
    assert stat.S_IMODE((tmp_path / "worker-1").stat().st_mode) == 0o700


def test_a_root_that_is_a_link_is_not_emptied(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_bytes(b"1")
    (tmp_path / "worker-1").symlink_to(tmp_path / "precious")
    with pytest.raises(WorkFolderError, match="worker-1"):
        Sandboxes(tmp_path / "worker-1").sweep()
    assert (tmp_path / "precious" / "file").exists()


def test_a_worker_s_id_is_used_once(tmp_path: Path) -> None:
    first = Sandboxes(tmp_path / "worker-1")
    first.claim(0)
    first.sweep()
    kept = first.create(TENANT, TASK_ID, 1, "a")
    with pytest.raises(ConfigurationError, match=r"worker id 'worker-1' is in use .*process \d+.*ATELIER_WORKER_ID"):
        Sandboxes(tmp_path / "worker-1").claim(0)
    other = Sandboxes(tmp_path / "worker-2")
    other.claim(0)
    other.sweep()
    assert kept.is_dir()
    first.release()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["worker-2", "worker-2.lock"]
    again = Sandboxes(tmp_path / "worker-1")
    again.claim(0)
    for sandboxes in (again, other):
        sandboxes.release()
    assert list(tmp_path.iterdir()) == []


def dead(folder: Path, name: str, owner: str) -> Path:
    """What a worker leaves that was killed: its folder, its lock's file, nobody who holds it."""
    left = folder / name / TENANT / TASK_ID / "1-a"
    left.mkdir(parents=True)
    (folder / f"{name}.lock").write_text(owner, encoding="utf-8")
    return left


def test_dead_workers_of_this_host_are_swept_and_no_others(tmp_path: Path) -> None:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    here = dead(tmp_path, "before-a-boot", f"host {socket.gethostname()} boot long-ago process 1\n")
    container = dead(tmp_path, "another-container", f"host 0a1b2c boot {boot} process 1\n")
    elsewhere = dead(tmp_path, "another-machine", "host elsewhere boot another process 1\n")
    unknown = dead(tmp_path, "somebody", "nothing of ours\n")
    unlocked = tmp_path / "no-lock"
    unlocked.mkdir()
    sandboxes = Sandboxes(tmp_path / "worker-1")
    sandboxes.claim(0)
    assert [path.exists() for path in (here, container, elsewhere, unknown, unlocked)] == [0, 0, 1, 1, 1]
    assert not (tmp_path / "before-a-boot").exists()
    assert not (tmp_path / "before-a-boot.lock").exists()
    sandboxes.release()


def test_a_work_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WorkFolderError, match="file/worker-1"):
        Sandboxes(tmp_path / "file" / "worker-1").claim(0)


def test_a_root_that_somebody_removed_is_made_again(sandboxes: Sandboxes, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "work")
    assert sandboxes.create(TENANT, TASK_ID, 1, "a").is_dir()
    shutil.rmtree(tmp_path / "work")
    assert sandboxes.fresh_home().is_dir()
