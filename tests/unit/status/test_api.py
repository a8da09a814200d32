from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry

from services.status.app import Dependencies, create_app
from services.status.lookup import TaskFinder
from services.status.store.memory import MemoryTaskViewStore
from services.status.waiting import PollingWaiter
from shared.auth.keys import KeyRecord, KeyRing, generate_key, key_record
from shared.contracts.event import Progress, ended_event, progress_event
from shared.domain.task import EventType, Phase
from shared.health import Health
from shared.ids import task_id_seconds
from shared.storage.memory import MemoryStore
from shared.storage.records import TaskRecords
from tests.support.builders import NOW, TASK_ID, TENANT, make_artifact, make_event, make_outcome, make_task

if TYPE_CHECKING:
    from werkzeug.test import TestResponse

    from shared.contracts.event import TaskEvent

PEPPER = "pepper"
PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
SHA256 = hashlib.sha256(PICTURE).hexdigest()
WHOLE = f"/api/v1/tasks/{TASK_ID}"
SHORT = f"/status/{TASK_ID}"
ARTIFACT = f"{WHOLE}/artifacts/0"
MADE_AT = datetime.fromtimestamp(task_id_seconds(TASK_ID), UTC)


class PublicStore(MemoryStore):
    """A store that clients can reach once it is told so."""

    public = False

    def presign(self, key: str, *, seconds: int) -> str | None:
        return f"https://store.example/{key}?expires={seconds}" if self.public else None


class World:
    """The application over fakes, and the keys of two tenants."""

    def __init__(self) -> None:
        self.views = MemoryTaskViewStore()
        self.objects = PublicStore()
        self.records = TaskRecords(self.objects)
        self.now = MADE_AT + timedelta(hours=1)
        self.slept = 0.0
        self.problem: str | None = None
        self.key, self.other_key = generate_key(), generate_key()
        records = [
            KeyRecord.model_validate(key_record(key, pepper=PEPPER, tenant_id=tenant))
            for key, tenant in ((self.key, TENANT), (self.other_key, "other"))
        ]
        finder = TaskFinder(
            store=self.views,
            waiter=PollingWaiter(self.views, clock=lambda: self.slept, sleep=self.sleep),
            records=self.records,
            clock=lambda: self.now,
        )
        parts = Dependencies(
            finder=finder,
            objects=self.objects,
            authenticator=KeyRing(tuple(records), PEPPER),
            health=Health({"database": lambda: self.problem}),
            registry=CollectorRegistry(),
        )
        self.client = create_app(parts).test_client()

    def sleep(self, seconds: float) -> None:
        self.slept += seconds

    def apply(self, *events: TaskEvent) -> None:
        self.views.apply_events(events, seen_until=MADE_AT)

    def succeed(self, count: int = 1) -> None:
        """The task has ended with so many pictures, which are in the bucket."""
        artifacts = []
        for number in range(count):
            key = f"tasks/{TASK_ID}/1-e/{number}.png"
            artifacts.append(make_artifact(key=key, bytes=len(PICTURE), sha256=SHA256, seed=7 + number))
            self.objects.put(key, PICTURE, media_type="image/png")
        self.apply(ended_event(make_outcome(artifacts=tuple(artifacts))))

    def get(self, path: str, **headers: str) -> TestResponse:
        return self.client.get(path, headers={"Authorization": f"Bearer {self.key}", **headers})

    def json(self, path: str, status: int = 200) -> dict[str, Any]:
        response = self.get(path)
        assert response.status_code == status, response.data
        body: dict[str, Any] = response.get_json(force=True)
        return body


@pytest.fixture
def world() -> World:
    return World()


def assert_problem(response: TestResponse, status: int, code: str) -> dict[str, Any]:
    assert response.status_code == status, response.data
    assert response.content_type == "application/problem+json"
    body: dict[str, Any] = response.get_json(force=True)
    assert (body["status"], body["code"], body["error"]["code"]) == (status, code, code)
    assert body["request_id"] == response.headers["X-Request-ID"]
    assert response.headers["Cache-Control"] == "no-store"
    return body


@pytest.mark.parametrize(
    ("event_type", "word"),
    [
        (EventType.QUEUED, "queued"),
        (EventType.STARTED, "generating"),
        (EventType.PROGRESS, "generating"),
        (EventType.RETRYING, "queued"),
        (EventType.SUCCEEDED, "done"),
        (EventType.FAILED, "failed"),
        (EventType.CANCELLED, "cancelled"),
        (EventType.EXPIRED, "expired"),
    ],
)
def test_every_state_has_its_word_in_both_forms(world: World, event_type: EventType, word: str) -> None:
    world.apply(make_event(event_type))
    short, whole = world.json(SHORT), world.json(WHOLE)
    assert (short["task_id"], short["status"]) == (TASK_ID, word)
    assert (whole["task_id"], whole["client_state"]) == (TASK_ID, word)
    assert short["state"] == whole["state"]


def test_the_short_form_of_a_running_task_tells_phase_and_step(world: World) -> None:
    world.apply(make_event(EventType.STARTED), make_event(EventType.PROGRESS))
    body = world.json(SHORT)
    assert (body["phase"], body["step"], body["steps"]) == ("denoising", 2, 4)
    assert 0 < body["progress"] < 1
    assert (body["result_url"], body["error"]) == (None, None)


def test_the_short_form_of_a_finished_task_leads_to_the_first_picture(world: World) -> None:
    world.succeed(count=2)
    body = world.json(SHORT)
    assert (body["status"], body["progress"], body["result_url"]) == ("done", 1.0, ARTIFACT)
    assert world.get(body["result_url"]).data == PICTURE


def test_the_short_form_of_a_failed_task_tells_why(world: World) -> None:
    world.apply(make_event(EventType.FAILED))
    body = world.json(SHORT)
    assert body["error"] == {"code": "backend_error", "message": "the model raised"}
    assert body["result_url"] is None


def test_the_whole_form_of_a_finished_task(world: World) -> None:
    world.apply(make_event())
    world.succeed(count=2)
    body = world.json(WHOLE)
    assert body["model"] == "simulated"
    assert body["params"]["prompt"] == "a lighthouse at dusk"
    assert (body["attempt"], body["max_attempts"], body["seed"]) == (1, 3, 7)
    assert body["created_at"] == "2026-01-05T12:00:00Z"
    assert body["started_at"] == "2026-01-05T12:00:01Z"
    assert body["ended_at"] == "2026-01-05T12:00:03Z"
    assert body["progress"] == {"phase": None, "step": 0, "steps": 0, "fraction": 1.0}
    assert body["timings"] == {"queued": 1.0, "denoise": 1.5}
    assert body["receipt"] == {"model": "simulated", "revision": "sha256:0"}
    assert [artifact["url"] for artifact in body["artifacts"]] == [ARTIFACT, f"{WHOLE}/artifacts/1"]
    assert [artifact["seed"] for artifact in body["artifacts"]] == [7, 8]
    assert body["links"] == {"self": WHOLE, "status": SHORT, "result": ARTIFACT}


def test_nothing_of_the_inside_is_told(world: World) -> None:
    world.succeed()
    text = world.get(WHOLE).text
    assert "worker-1" not in text
    assert f"tasks/{TASK_ID}/1-e" not in text


def test_the_whole_form_of_a_task_of_which_only_progress_is_known(world: World) -> None:
    world.apply(make_event(EventType.PROGRESS))
    body = world.json(WHOLE)
    assert (body["model"], body["created_at"], body["max_attempts"]) == (None, None, None)


@pytest.mark.parametrize("path", [SHORT, WHOLE])
def test_states_are_never_cached(world: World, path: str) -> None:
    world.apply(make_event())
    assert world.get(path).headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", [SHORT, WHOLE, ARTIFACT])
@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer nonsense"}, {"Authorization": "Basic x"}])
def test_without_a_known_key_nothing_is_answered(world: World, path: str, header: dict[str, str]) -> None:
    world.succeed()
    response = world.client.get(path, headers=header)
    assert_problem(response, 401, "unauthorized")
    assert response.headers["WWW-Authenticate"].startswith("Bearer")


def test_the_key_may_come_in_a_header_of_its_own(world: World) -> None:
    world.apply(make_event())
    assert world.client.get(SHORT, headers={"X-API-Key": world.key}).status_code == 200


@pytest.mark.parametrize("path", [SHORT, WHOLE, ARTIFACT])
def test_another_tenants_task_is_answered_as_one_that_does_not_exist(world: World, path: str) -> None:
    world.succeed()
    world.views.apply_events([], seen_until=world.now)
    unknown = path.replace(TASK_ID, "019b8e1b-7800-7abc-8def-ffffffffffff")
    foreign = world.client.get(path, headers={"X-API-Key": world.other_key})
    body = assert_problem(foreign, 404, "task_not_found")
    twin = assert_problem(world.get(unknown), 404, "task_not_found")
    for own in ("instance", "request_id"):
        del body[own], twin[own]
    assert body == twin


@pytest.mark.parametrize("task_id", ["x", "019b8e1b", "%00", "..%2F..", "a" * 5000])
def test_a_malformed_id_is_not_found(world: World, task_id: str) -> None:
    assert world.get(f"/status/{task_id}").status_code == 404


def test_a_task_whose_news_is_under_way_is_asked_for_again(world: World) -> None:
    response = world.get(SHORT)
    assert_problem(response, 503, "status_lagging")
    assert response.headers["Retry-After"] == "2"


def test_a_task_that_only_the_bucket_knows_is_answered_from_there(world: World) -> None:
    world.records.commit(make_outcome())
    assert world.json(SHORT)["status"] == "done"
    assert world.json(WHOLE)["state"] == "succeeded"


@pytest.mark.parametrize(("part", "code"), [("views", "view_store_error"), ("objects", "storage_error")])
def test_a_database_or_store_that_is_away_is_503_and_tells_nothing_of_the_inside(
    world: World, part: str, code: str
) -> None:
    getattr(world, part).available = False
    response = world.get(SHORT)
    body = assert_problem(response, 503, code)
    assert "switched off" not in body["detail"]
    assert "Retry-After" in response.headers


def test_an_artifact_that_cannot_be_read_now_is_503(world: World) -> None:
    world.succeed()
    world.objects.available = False
    assert_problem(world.get(ARTIFACT), 503, "storage_error")


@pytest.mark.parametrize("wait", ["-1", "61", "nan", "inf", "abc", "", "1e9"])
def test_a_wait_out_of_range_is_refused_by_name(world: World, wait: str) -> None:
    world.apply(make_event())
    body = assert_problem(world.get(f"{SHORT}?wait={wait}"), 400, "invalid_request")
    assert body["errors"][0]["field"] == "wait"
    assert body["error"]["param"] == "wait"


@pytest.mark.parametrize("path", [SHORT, WHOLE])
def test_a_wait_is_as_long_as_was_asked_for(world: World, path: str) -> None:
    world.apply(make_event())
    assert world.json(f"{path}?wait=2.5")["state"] == "queued"
    assert world.slept == pytest.approx(2.5)


def test_an_artifact_is_streamed_with_what_a_browser_needs(world: World) -> None:
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


def test_head_describes_an_artifact_without_its_body(world: World) -> None:
    world.succeed()
    response = world.client.head(ARTIFACT, headers={"X-API-Key": world.key})
    full = world.get(ARTIFACT)
    assert response.status_code == 200
    assert response.data == b""
    for name in ("Content-Length", "Content-Type", "ETag", "Content-Disposition", "Cache-Control"):
        assert response.headers[name] == full.headers[name]


@pytest.mark.parametrize("etag", [f'"{SHA256}"', f'W/"{SHA256}"', f'"x", "{SHA256}"', "*"])
def test_an_artifact_that_the_client_has_is_not_sent_again(world: World, etag: str) -> None:
    world.succeed()
    world.objects.available = False
    response = world.get(ARTIFACT, **{"If-None-Match": etag})
    assert (response.status_code, response.data) == (304, b"")
    assert response.headers["ETag"] == f'"{SHA256}"'
    assert "Content-Length" not in response.headers


def test_another_etag_gets_the_artifact(world: World) -> None:
    world.succeed()
    assert world.get(ARTIFACT, **{"If-None-Match": '"other"'}).data == PICTURE


@pytest.mark.parametrize("number", ["1", "99999999999999999999999"])
def test_a_number_beyond_the_artifacts_is_not_found(world: World, number: str) -> None:
    world.succeed()
    assert_problem(world.get(f"{WHOLE}/artifacts/{number}"), 404, "artifact_not_found")


@pytest.mark.parametrize("number", ["-1", "x", "0.5", "0/1"])
def test_what_is_no_number_is_no_place(world: World, number: str) -> None:
    world.succeed()
    assert_problem(world.get(f"{WHOLE}/artifacts/{number}"), 404, "not_found")


def test_a_task_that_has_not_ended_has_no_artifacts(world: World) -> None:
    world.apply(make_event())
    body = assert_problem(world.get(ARTIFACT), 404, "artifact_not_found")
    assert "queued" in body["detail"]


def test_an_artifact_that_is_gone_from_the_bucket_is_not_found(world: World) -> None:
    world.succeed()
    world.objects.delete_prefix("tasks/")
    assert_problem(world.get(ARTIFACT), 404, "artifact_not_found")


def test_where_clients_reach_the_store_they_are_sent_there(world: World) -> None:
    world.succeed()
    world.objects.public = True
    url = f"https://store.example/tasks/{TASK_ID}/1-e/0.png?expires=3600"
    assert world.json(SHORT)["result_url"] == url
    assert world.json(WHOLE)["artifacts"][0]["url"] == url
    response = world.get(ARTIFACT)
    assert (response.status_code, response.headers["Location"]) == (302, url)
    assert response.headers["Cache-Control"] == "no-store"


def test_other_methods_and_places_are_refused_as_problems(world: World) -> None:
    key = {"X-API-Key": world.key}
    refused = world.client.post(SHORT, headers=key)
    assert_problem(refused, 405, "method_not_allowed")
    assert "GET" in refused.headers["Allow"]
    assert_problem(world.get("/nowhere"), 404, "not_found")


def test_the_request_id_is_kept_when_it_is_well_formed(world: World) -> None:
    world.apply(make_event())
    assert world.get(SHORT, **{"X-Request-ID": "abcdef0123456789"}).headers["X-Request-ID"] == "abcdef0123456789"
    made = world.get(SHORT, **{"X-Request-ID": "bad id; drop"}).headers["X-Request-ID"]
    assert len(made) == 32


def test_health_readiness_and_metrics(world: World) -> None:
    world.apply(make_event())
    world.get(SHORT)
    assert world.client.get("/healthz").get_json() == {"status": "ok"}
    assert world.client.get("/readyz").status_code == 200
    world.problem = "gone"
    response = world.client.get("/readyz")
    assert (response.status_code, response.get_json()["checks"]) == (503, {"database": "gone"})
    metrics = world.client.get("/metrics").text
    assert 'endpoint="tasks.status",method="GET",status="200"' in metrics
    assert TASK_ID not in metrics


def test_progress_never_runs_backwards_through_the_phases(world: World) -> None:
    news = [Progress(phase=phase) for phase in Phase if phase is not Phase.DENOISING]
    news[2:2] = [Progress(phase=Phase.DENOISING, step=step, steps=4) for step in range(5)]
    fractions = []
    for sequence, progress in enumerate(news, start=2):
        world.apply(progress_event(make_task(), progress, sequence=sequence, at=NOW))
        fractions.append(world.json(SHORT)["progress"])
    assert fractions == sorted(fractions)
    assert fractions[0] == 0
    assert fractions[2:7] == [0.05, 0.2625, 0.475, 0.6875, 0.9]
    assert fractions[-1] < 1
