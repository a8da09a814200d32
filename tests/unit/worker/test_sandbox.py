from __future__ import annotations

import stat
import threading
from typing import TYPE_CHECKING

import pytest

from services.worker.errors import WorkFolderError
from services.worker.sandbox import Sandboxes
from tests.support.builders import TASK_ID, TENANT

if TYPE_CHECKING:
    from pathlib import Path


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
