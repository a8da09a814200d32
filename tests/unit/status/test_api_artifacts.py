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
    assert "Accept-Ranges" not in response.headers


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
