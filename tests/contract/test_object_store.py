from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import pytest

from shared.clock import utc_now
from shared.domain.errors import AlreadyExistsError, ObjectNotFoundError, StorageError
from shared.storage.memory import MemoryStore
from shared.storage.ports import Span

if TYPE_CHECKING:
    from pathlib import Path

    from shared.storage.ports import ObjectStore

TEXT: Final = "text/plain"
RACERS: Final = 8


class ObjectStoreContract:
    """What every object store must do. Inherit and provide the ``store`` fixture."""

    def test_what_was_put_is_read_back(self, store: ObjectStore) -> None:
        store.put("a/1", b"one", media_type=TEXT)
        assert store.get("a/1") == b"one"

    def test_a_put_replaces(self, store: ObjectStore) -> None:
        store.put("a/1", b"one", media_type=TEXT)
        store.put("a/1", b"two", media_type=TEXT)
        assert store.get("a/1") == b"two"

    def test_a_create_never_replaces(self, store: ObjectStore) -> None:
        store.create("a/1", b"first", media_type=TEXT)
        with pytest.raises(AlreadyExistsError):
            store.create("a/1", b"second", media_type=TEXT)
        assert store.get("a/1") == b"first"

    def test_of_racing_creates_exactly_one_wins_and_its_body_stands(self, store: ObjectStore) -> None:
        for race in range(5):
            barrier = threading.Barrier(RACERS)

            def create(racer: int, key: str = f"race/{race}", barrier: threading.Barrier = barrier) -> bytes | None:
                barrier.wait()
                body = f"racer {racer}".encode()
                try:
                    store.create(key, body, media_type=TEXT)
                except AlreadyExistsError:
                    return None
                return body

            with ThreadPoolExecutor(RACERS) as pool:
                winners = [body for body in pool.map(create, range(RACERS)) if body is not None]
            assert winners == [store.get(f"race/{race}")]

    def test_a_deleted_object_can_be_created_again(self, store: ObjectStore) -> None:
        store.create("a/1", b"first", media_type=TEXT)
        store.delete_prefix("a/1")
        store.create("a/1", b"second", media_type=TEXT)
        assert store.get("a/1") == b"second"

    def test_a_missing_object_is_an_error_of_its_own(self, store: ObjectStore) -> None:
        with pytest.raises(ObjectNotFoundError):
            store.get("nothing/here")
        with pytest.raises(ObjectNotFoundError):
            store.open("nothing/here")

    def test_an_opened_object_streams_with_its_size_and_type(self, store: ObjectStore) -> None:
        body = bytes(range(256)) * 4096
        store.put("big", body, media_type="image/png")
        opened = store.open("big")
        assert b"".join(opened.chunks) == body
        assert (opened.size, opened.media_type) == (len(body), "image/png")

    @pytest.mark.parametrize("span", [Span(0, 0), Span(5, 9), Span(250, 255), Span(0, 255)])
    def test_a_span_of_an_object_is_read_alone(self, store: ObjectStore, span: Span) -> None:
        body = bytes(range(256))
        store.put("a/1", body, media_type="image/png")
        opened = store.open("a/1", span)
        assert b"".join(opened.chunks) == body[span.first : span.last + 1]
        assert (opened.size, opened.media_type) == (span.size, "image/png")

    def test_a_span_of_a_missing_object_is_missing(self, store: ObjectStore) -> None:
        with pytest.raises(ObjectNotFoundError):
            store.open("nothing/here", Span(0, 1))

    def test_an_etag_follows_the_content(self, store: ObjectStore) -> None:
        etags = []
        for body in (b"one", b"one", b"two"):
            store.put("a/1", body, media_type=TEXT)
            opened = store.open("a/1")
            assert b"".join(opened.chunks) == body
            etags.append(opened.etag)
        assert etags[0] == etags[1] != etags[2]
        assert etags[0].startswith('"')
        assert etags[0].endswith('"')

    def test_a_file_is_stored_whole(self, store: ObjectStore, tmp_path: Path) -> None:
        path = tmp_path / "0.png"
        path.write_bytes(b"\x89PNG\0" * 1000)
        store.put_file("a/0.png", path, media_type="image/png")
        assert store.get("a/0.png") == path.read_bytes()
        assert store.open("a/0.png").media_type == "image/png"

    def test_an_empty_object_is_an_object(self, store: ObjectStore) -> None:
        store.create("empty", b"", media_type=TEXT)
        assert store.get("empty") == b""

    def test_whether_an_object_is_there(self, store: ObjectStore) -> None:
        store.put("a/1", b"one", media_type=TEXT)
        assert [store.exists(key) for key in ("a/1", "a/2", "b")] == [True, False, False]

    def test_keys_are_those_below_the_prefix_in_order(self, store: ObjectStore) -> None:
        for key in ("tasks/b/1", "tasks/a/2", "tasks/a/1", "tasks/ab/1", "other"):
            store.put(key, b"x", media_type=TEXT)
        assert list(store.keys("tasks/a/")) == ["tasks/a/1", "tasks/a/2"]
        assert list(store.keys("")) == ["other", "tasks/a/1", "tasks/a/2", "tasks/ab/1", "tasks/b/1"]
        assert list(store.keys("tasks/c/")) == []

    def test_a_listing_goes_on_behind_a_key_whether_it_is_there_or_not(self, store: ObjectStore) -> None:
        keys = ["tasks/a/1-x/0.png", "tasks/a/claim-1.json", "tasks/a/outcome.json", "tasks/b/outcome.json"]
        for key in keys:
            store.put(key, b"x", media_type=TEXT)
        for number, key in enumerate(keys, 1):
            assert [item.key for item in store.listed("tasks/", after=key)] == keys[number:]
        store.delete(keys[1])
        assert [item.key for item in store.listed("tasks/", after=keys[1])] == keys[2:]

    def test_a_listing_tells_how_large_an_object_is_and_when_it_was_written_last(self, store: ObjectStore) -> None:
        store.put("a/1", b"one", media_type=TEXT)
        [listed] = store.listed("a/")
        assert listed.size == 3
        assert abs((utc_now() - listed.modified_at).total_seconds()) < 60

    def test_delete_deletes_one_object_and_minds_none_that_is_not_there(self, store: ObjectStore) -> None:
        for key in ("a/1", "a/10"):
            store.put(key, b"x", media_type=TEXT)
        for _ in range(2):
            store.delete("a/1")
        assert list(store.keys("")) == ["a/10"]

    def test_delete_prefix_deletes_that_and_nothing_else(self, store: ObjectStore) -> None:
        for key in ("tasks/a/1", "tasks/a/2", "tasks/ab/1"):
            store.put(key, b"x", media_type=TEXT)
        store.delete_prefix("tasks/a/")
        store.delete_prefix("tasks/a/")
        assert list(store.keys("")) == ["tasks/ab/1"]


class TestMemoryStore(ObjectStoreContract):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()


def test_a_memory_store_that_is_switched_off_fails_as_a_broken_one() -> None:
    store = MemoryStore()
    store.available = False
    with pytest.raises(StorageError):
        store.put("a", b"1", media_type=TEXT)
    with pytest.raises(StorageError):
        store.get("a")
    with pytest.raises(StorageError):
        store.exists("a")
    with pytest.raises(StorageError):
        list(store.keys(""))
