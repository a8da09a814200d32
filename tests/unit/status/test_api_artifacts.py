from __future__ import annotations

import pytest

from tests.support.builders import TASK_ID, make_event
from tests.support.status_api import ARTIFACT, PICTURE, SHA256, SHORT, WHOLE, StatusApiWorld, assert_problem


@pytest.fixture
def world() -> StatusApiWorld:
    return StatusApiWorld()


def test_an_artifact_is_streamed_with_what_a_browser_needs(world: StatusApiWorld) -> None:
    world.succeed()
    response = world.get(ARTIFACT)
    assert response.status_code == 200
    assert response.data == PICTURE
    assert response.content_type == "image/png"
    assert response.content_length == len(PICTURE)
    assert response.headers["ETag"] == f'"{SHA256}"'
    assert response.headers["Content-Disposition"] == f'inline; filename="{TASK_ID}-0.png"'
    assert response.headers["Cache-Control"] == "private, max-age=31536000, immutable"
    assert response.headers["Accept-Ranges"] == "bytes"


def test_head_describes_an_artifact_without_its_body(world: StatusApiWorld) -> None:
    world.succeed()
    response = world.client.head(ARTIFACT, headers={"X-API-Key": world.key})
    full = world.get(ARTIFACT)
    assert response.status_code == 200
    assert response.data == b""
    for name in ("Content-Length", "Content-Type", "ETag", "Content-Disposition", "Cache-Control"):
        assert response.headers[name] == full.headers[name]


@pytest.mark.parametrize("etag", [f'"{SHA256}"', f'W/"{SHA256}"', f'"x", "{SHA256}"', "*"])
def test_an_artifact_that_the_client_has_is_not_sent_again(world: StatusApiWorld, etag: str) -> None:
    world.succeed()
    world.objects.available = False
    response = world.get(ARTIFACT, **{"If-None-Match": etag})
    assert (response.status_code, response.data) == (304, b"")
    assert response.headers["ETag"] == f'"{SHA256}"'
    assert "Content-Length" not in response.headers


def test_another_etag_gets_the_artifact(world: StatusApiWorld) -> None:
    world.succeed()
    assert world.get(ARTIFACT, **{"If-None-Match": '"other"'}).data == PICTURE


@pytest.mark.parametrize("number", ["1", "99999999999999999999999"])
def test_a_number_beyond_the_artifacts_is_not_found(world: StatusApiWorld, number: str) -> None:
    world.succeed()
    assert_problem(world.get(f"{WHOLE}/artifacts/{number}"), 404, "artifact_not_found")


@pytest.mark.parametrize("number", ["-1", "x", "0.5", "0/1"])
def test_what_is_no_number_is_no_place(world: StatusApiWorld, number: str) -> None:
    world.succeed()
    assert_problem(world.get(f"{WHOLE}/artifacts/{number}"), 404, "not_found")


def test_a_task_that_has_not_ended_has_no_artifacts(world: StatusApiWorld) -> None:
    world.apply(make_event())
    body = assert_problem(world.get(ARTIFACT), 404, "artifact_not_found")
    assert "queued" in body["detail"]


@pytest.mark.parametrize("public", [True, False])
def test_an_artifact_whose_time_is_over_is_gone(world: StatusApiWorld, public: bool) -> None:
    world.succeed()
    world.objects.delete_prefix("tasks/")
    world.objects.public = public
    assert_problem(world.get(ARTIFACT), 410, "artifact_expired")
    assert world.client.head(ARTIFACT, headers={"X-API-Key": world.key}).status_code == 410
    assert world.json(SHORT)["status"] == "done", "that it ended is known still"


def test_where_clients_reach_the_store_they_are_sent_there(world: StatusApiWorld) -> None:
    world.succeed()
    world.objects.public = True
    url = f"https://store.example/tasks/{TASK_ID}/1-e/0.png?expires=3600"
    assert world.json(SHORT)["result_url"] == url
    assert world.json(WHOLE)["artifacts"][0]["url"] == url
    response = world.get(ARTIFACT)
    assert (response.status_code, response.headers["Location"]) == (302, url)
    assert response.headers["Cache-Control"] == "no-store"


def test_an_artifact_that_cannot_be_read_now_is_503(world: StatusApiWorld) -> None:
    world.succeed()
    world.objects.available = False
    assert_problem(world.get(ARTIFACT), 503, "storage_error")


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=10-19", 10, 19),
        ("bytes=200-", 200, len(PICTURE) - 1),
        ("bytes=-5", len(PICTURE) - 5, len(PICTURE) - 1),
        ("bytes=-100000", 0, len(PICTURE) - 1),
        ("bytes=250-100000", 250, len(PICTURE) - 1),
    ],
)
def test_a_range_is_a_part(world: StatusApiWorld, asked: str, first: int, last: int) -> None:
    world.succeed()
    response = world.get(ARTIFACT, Range=asked)
    assert response.status_code == 206
    assert response.data == PICTURE[first : last + 1]
    assert response.content_length == last - first + 1
    assert response.headers["Content-Range"] == f"bytes {first}-{last}/{len(PICTURE)}"
    assert response.headers["ETag"] == f'"{SHA256}"'
    assert response.content_type == "image/png"


@pytest.mark.parametrize("asked", [f"bytes={len(PICTURE)}-", "bytes=100000-100001"])
def test_a_range_behind_the_end_is_refused_with_the_size(world: StatusApiWorld, asked: str) -> None:
    world.succeed()
    response = world.get(ARTIFACT, Range=asked)
    assert_problem(response, 416, "range_not_satisfiable")
    assert response.headers["Content-Range"] == f"bytes */{len(PICTURE)}"


@pytest.mark.parametrize("asked", ["bytes=0-1,3-4", "bytes=5-2", "bytes=x-y", "lines=0-1", "bytes=", "bytes=-0", "0-1"])
def test_what_is_no_single_range_gets_the_whole(world: StatusApiWorld, asked: str) -> None:
    world.succeed()
    response = world.get(ARTIFACT, Range=asked)
    assert (response.status_code, response.data) == (200, PICTURE)


@pytest.mark.parametrize(
    ("condition", "status"),
    [
        (f'"{SHA256}"', 206),
        (f'W/"{SHA256}"', 200),
        ('"other"', 200),
        ("Mon, 05 Jan 2026 12:00:00 GMT", 200),
    ],
)
def test_a_range_of_what_has_changed_is_the_whole(world: StatusApiWorld, condition: str, status: int) -> None:
    world.succeed()
    assert world.get(ARTIFACT, Range="bytes=0-1", **{"If-Range": condition}).status_code == status


def test_a_client_that_has_it_gets_no_part_of_it(world: StatusApiWorld) -> None:
    world.succeed()
    assert world.get(ARTIFACT, Range="bytes=0-1", **{"If-None-Match": f'"{SHA256}"'}).status_code == 304


def test_head_knows_no_ranges(world: StatusApiWorld) -> None:
    world.succeed()
    response = world.client.head(ARTIFACT, headers={"X-API-Key": world.key, "Range": "bytes=0-1"})
    assert (response.status_code, response.content_length) == (200, len(PICTURE))


def test_a_download_is_saved_under_its_name(world: StatusApiWorld) -> None:
    world.succeed()
    name = f'attachment; filename="{TASK_ID}-0.png"'
    assert world.get(f"{ARTIFACT}?download=1").headers["Content-Disposition"] == name
    assert world.get(f"{ARTIFACT}?download=0").headers["Content-Disposition"].startswith("inline;")
    assert_problem(world.get(f"{ARTIFACT}?download=yes"), 400, "invalid_request")


def test_a_download_from_the_store_itself_is_saved_too(world: StatusApiWorld) -> None:
    world.succeed()
    world.objects.public = True
    assert world.get(f"{ARTIFACT}?download=1").headers["Location"].endswith(f"&save_as={TASK_ID}-0.png")
