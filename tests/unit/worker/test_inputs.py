"""The picture that a task starts from: out of the bucket, into the task's folder, and what may go wrong on the way."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from services.worker.errors import InputImageLostError, InputImageUnavailableError, WorkFolderError
from services.worker.inputs import fetch_input
from services.worker.sandbox import Sandboxes
from shared.contracts.task import InputImage
from shared.domain.task import TaskState
from shared.storage.memory import MemoryStore
from tests.support.builders import TENANT, make_params, make_task

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.worker import WorkerWorld

BODY = b"what a client sent"
SHA = hashlib.sha256(BODY).hexdigest()
KEY = f"inputs/{TENANT}/{SHA}.jpg"
IMAGE = InputImage(key=KEY, media_type="image/jpeg", bytes=len(BODY), sha256=SHA)


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    store.put(KEY, BODY, media_type="image/jpeg")
    return store


@pytest.fixture
def sandboxes(tmp_path: Path) -> Sandboxes:
    return Sandboxes(tmp_path / "work")


@pytest.fixture
def folder(sandboxes: Sandboxes) -> Path:
    return sandboxes.create(TENANT, "task", 1, "execution")


def test_it_lies_in_the_tasks_folder(store: MemoryStore, sandboxes: Sandboxes, folder: Path) -> None:
    path = fetch_input(store, sandboxes, IMAGE, folder)
    assert path == folder / "input.jpg"
    assert path.read_bytes() == BODY
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("body", [BODY[:-1], BODY[:-1] + b"x", b"x" * 1000])
def test_another_image_in_its_place_is_no_input(
    store: MemoryStore, sandboxes: Sandboxes, folder: Path, body: bytes
) -> None:
    store.put(KEY, body, media_type="image/jpeg")
    with pytest.raises(InputImageLostError, match="not the one"):
        fetch_input(store, sandboxes, IMAGE, folder)
    assert list(folder.iterdir()) == []


def test_one_that_is_gone_is_lost_for_good(store: MemoryStore, sandboxes: Sandboxes, folder: Path) -> None:
    store.delete(KEY)
    with pytest.raises(InputImageLostError) as caught:
        fetch_input(store, sandboxes, IMAGE, folder)
    assert (caught.value.code, caught.value.retryable) == ("input_image_lost", False)


def test_a_store_that_is_away_may_be_back_later(store: MemoryStore, sandboxes: Sandboxes, folder: Path) -> None:
    store.available = False
    with pytest.raises(InputImageUnavailableError) as caught:
        fetch_input(store, sandboxes, IMAGE, folder)
    assert (caught.value.code, caught.value.retryable) == ("input_image_unavailable", True)


def test_nothing_is_written_through_a_link(
    store: MemoryStore, sandboxes: Sandboxes, folder: Path, tmp_path: Path
) -> None:
    target = tmp_path / "elsewhere"
    (folder / "input.jpg").symlink_to(target)
    with pytest.raises(WorkFolderError):
        fetch_input(store, sandboxes, IMAGE, folder)
    assert not target.exists()


def test_the_model_gets_the_file_and_it_goes_with_the_folder(world: WorkerWorld) -> None:
    world.quiet_records().store.put(KEY, BODY, media_type="image/jpeg")
    world.submit(make_task(params=make_params(image=IMAGE)))
    world.run()
    (request,) = world.runner.requests
    assert request.image == request.out_dir / "input.jpg"
    outcome = world.assert_at_rest(TaskState.SUCCEEDED)
    assert outcome.task.params.image == IMAGE


def test_a_task_whose_image_is_gone_fails_at_once_and_for_good(world: WorkerWorld) -> None:
    world.submit(make_task(params=make_params(image=IMAGE)))
    world.settle()
    outcome = world.assert_at_rest(TaskState.FAILED)
    assert outcome.error is not None
    assert (outcome.error.code, outcome.attempt) == ("input_image_lost", 1)
    assert world.runner.requests == []


def test_a_task_whose_store_is_away_for_a_moment_is_tried_again(
    world: WorkerWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.quiet_records().store.put(KEY, BODY, media_type="image/jpeg")
    whole, tries = MemoryStore.open, []

    def once_away(store: MemoryStore, *place: object) -> object:
        tries.append(place)
        store.available = len(tries) > 1
        try:
            return whole(store, *place)  # type: ignore[arg-type] # handed on as it came
        finally:
            store.available = True

    monkeypatch.setattr(MemoryStore, "open", once_away)
    world.submit(make_task(params=make_params(image=IMAGE)))
    world.settle()
    outcome = world.assert_at_rest(TaskState.SUCCEEDED)
    assert (outcome.attempt, len(tries)) == (2, 2)
