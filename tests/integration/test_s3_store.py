from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from shared.domain.errors import ConfigurationError, StorageError
from shared.storage.s3 import S3Store
from tests.contract.test_object_store import TEXT, ObjectStoreContract
from tests.contract.work_index import WorkIndexContract
from tests.support.ports import LOOPBACK, free_port

if TYPE_CHECKING:
    from tests.support.s3 import S3Server


@pytest.fixture
def store(s3_server: S3Server, bucket: str) -> S3Store:
    return S3Store(s3_server.settings(bucket))


class TestS3Store(ObjectStoreContract):
    """See ObjectStoreContract."""


class TestWorkIndexInS3(WorkIndexContract):
    """See WorkIndexContract."""


def test_the_probe_passes_and_leaves_nothing(store: S3Store) -> None:
    store.probe()
    assert list(store.keys("")) == []


def test_the_probe_refuses_a_store_that_ignores_conditions(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put_object = store._client.put_object

    def unconditional(**arguments: Any) -> object:  # noqa: ANN401 - whatever boto3 takes
        arguments.pop("IfNoneMatch", None)
        return put_object(**arguments)

    monkeypatch.setattr(store._client, "put_object", unconditional)
    with pytest.raises(ConfigurationError, match="If-None-Match"):
        store.probe()


def test_the_probe_bears_that_its_first_answer_is_lost_and_the_client_repeats(
    store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_object = store._client.put_object

    def repeated(**arguments: Any) -> object:  # noqa: ANN401 - as above
        put_object(**arguments)
        return put_object(**arguments)

    monkeypatch.setattr(store._client, "put_object", repeated)
    store.probe()
    assert list(store.keys("")) == []


def test_more_keys_than_one_page_are_all_listed(s3_server: S3Server, store: S3Store) -> None:
    del s3_server
    for number in range(1005):
        store.put(f"many/{number:04}", b"", media_type=TEXT)
    assert list(store.keys("many/")) == [f"many/{number:04}" for number in range(1005)]


def test_a_store_that_does_not_answer_is_a_storage_error(s3_server: S3Server, bucket: str) -> None:
    settings = s3_server.settings(bucket).model_copy(update={"s3_endpoint": f"http://{LOOPBACK}:{free_port()}"})
    with pytest.raises(StorageError):
        S3Store(settings).get("a")


def test_a_presigned_url_needs_no_key_and_ends_with_its_object(s3_server: S3Server, bucket: str) -> None:
    store = S3Store(s3_server.settings(bucket, public=True))
    store.put("a/0.png", b"picture", media_type="image/png")
    url = store.presign("a/0.png", seconds=60)
    assert url is not None
    answer = httpx.get(url)
    assert (answer.status_code, answer.content) == (200, b"picture")
    assert httpx.get(url.split("?")[0]).status_code == 403


def test_a_presigned_url_may_say_under_which_name_to_save(s3_server: S3Server, bucket: str) -> None:
    store = S3Store(s3_server.settings(bucket, public=True))
    store.put("a/0.png", b"picture", media_type="image/png")
    url = store.presign("a/0.png", seconds=60, save_as="mine.png")
    assert url is not None
    answer = httpx.get(url)
    assert (answer.status_code, answer.content) == (200, b"picture")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="mine.png"'


def test_nothing_is_presigned_while_clients_cannot_reach_the_store(store: S3Store) -> None:
    assert store.presign("a", seconds=60) is None


def test_a_store_that_dies_while_an_object_is_read_is_a_storage_error(s3_server: S3Server, bucket: str) -> None:
    store = S3Store(s3_server.settings(bucket))
    store.put("big", bytes(64 * 1024 * 1024), media_type=TEXT)
    opened = store.open("big")
    next(opened.chunks)
    s3_server.kill()
    try:
        with contextlib.closing(opened.chunks), pytest.raises(StorageError):  # type: ignore[type-var] # a generator has close
            list(opened.chunks)
    finally:
        s3_server.start()
