from __future__ import annotations

import pytest

from shared.contracts.event import Progress, progress_event
from shared.domain.task import EventType, Phase
from shared.ids import new_task_id
from tests.support.builders import NOW, TASK_ID, make_event, make_image, make_outcome, make_params, make_task
from tests.support.status_api import ARTIFACT, PICTURE, SHORT, WHOLE, StatusApiWorld, assert_problem


@pytest.fixture
def world() -> StatusApiWorld:
    return StatusApiWorld()


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
def test_every_state_has_its_word_in_both_forms(world: StatusApiWorld, event_type: EventType, word: str) -> None:
    world.apply(make_event(event_type))
    short, whole = world.json(SHORT), world.json(WHOLE)
    assert (short["task_id"], short["status"]) == (TASK_ID, word)
    assert (whole["task_id"], whole["client_state"]) == (TASK_ID, word)
    assert short["state"] == whole["state"]


def test_a_waiting_task_tells_what_is_served_before_it_and_when_it_may_end(world: StatusApiWorld) -> None:
    world.now = NOW
    others = [make_task(task_id=new_task_id(), tenant_id="another", priority=9) for _ in range(2)]
    world.apply(*(make_event(EventType.QUEUED, other) for other in others), make_event(EventType.QUEUED))
    assert {(body["ahead"], body["eta_seconds"]) for body in map(world.json, (SHORT, WHOLE))} == {(2, None)}
    world.apply(make_event(EventType.STARTED, others[0]))
    seconds = 2.5 * others[0].predicted.gpu_seconds  # half of what runs, what is before it, and its own
    assert [(body["ahead"], body["eta_seconds"]) for body in map(world.json, (SHORT, WHOLE))] == [(1, seconds)] * 2
    world.apply(make_event(EventType.STARTED))
    assert [(body["ahead"], body["eta_seconds"]) for body in map(world.json, (SHORT, WHOLE))] == [(None, None)] * 2


def test_the_short_form_of_a_running_task_tells_phase_and_step(world: StatusApiWorld) -> None:
    world.apply(make_event(EventType.STARTED), make_event(EventType.PROGRESS))
    body = world.json(SHORT)
    assert (body["phase"], body["step"], body["steps"]) == ("denoising", 2, 4)
    assert 0 < body["progress"] < 1
    assert (body["result_url"], body["error"]) == (None, None)


def test_the_short_form_of_a_finished_task_leads_to_the_first_picture(world: StatusApiWorld) -> None:
    world.succeed(count=2)
    body = world.json(SHORT)
    assert (body["status"], body["progress"], body["result_url"]) == ("done", 1.0, ARTIFACT)
    assert world.get(body["result_url"]).data == PICTURE


def test_the_short_form_of_a_failed_task_tells_why(world: StatusApiWorld) -> None:
    world.apply(make_event(EventType.FAILED))
    body = world.json(SHORT)
    assert body["error"] == {"code": "backend_error", "message": "the model raised"}
    assert body["result_url"] is None


def test_the_whole_form_of_a_finished_task(world: StatusApiWorld) -> None:
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
    assert body["links"] == {"self": WHOLE, "status": SHORT, "events": f"{WHOLE}/events", "result": ARTIFACT}


def test_a_replayed_task_and_its_replay_name_each_other(world: StatusApiWorld) -> None:
    old = "019b8e1b-7800-7abc-8def-00000000000a"
    world.apply(make_event(EventType.FAILED, make_task(task_id=old)), make_event(task=make_task(retry_of=old)))
    was, now = world.json(f"/api/v1/tasks/{old}"), world.json(WHOLE)
    assert (was["retry_of"], was["retried_as"]) == (None, TASK_ID)
    assert (now["retry_of"], now["retried_as"]) == (old, None)


def test_nothing_of_the_inside_is_told(world: StatusApiWorld) -> None:
    world.succeed()
    text = world.get(WHOLE).text
    assert "worker-1" not in text
    assert f"tasks/{TASK_ID}/1-e" not in text


def test_the_whole_form_of_a_task_of_which_only_progress_is_known(world: StatusApiWorld) -> None:
    world.apply(make_event(EventType.PROGRESS))
    body = world.json(WHOLE)
    assert (body["model"], body["created_at"], body["max_attempts"]) == (None, None, None)


@pytest.mark.parametrize("path", [SHORT, WHOLE])
def test_states_are_never_cached(world: StatusApiWorld, path: str) -> None:
    world.apply(make_event())
    assert world.get(path).headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", [SHORT, WHOLE, ARTIFACT])
@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer nonsense"}, {"Authorization": "Basic x"}])
def test_without_a_known_key_nothing_is_answered(world: StatusApiWorld, path: str, header: dict[str, str]) -> None:
    world.succeed()
    response = world.client.get(path, headers=header)
    assert_problem(response, 401, "unauthorized")
    assert response.headers["WWW-Authenticate"].startswith("Bearer")


def test_the_key_may_come_in_a_header_of_its_own(world: StatusApiWorld) -> None:
    world.apply(make_event())
    assert world.client.get(SHORT, headers={"X-API-Key": world.key}).status_code == 200


@pytest.mark.parametrize("path", [SHORT, WHOLE, ARTIFACT])
def test_another_tenants_task_is_answered_as_one_that_does_not_exist(world: StatusApiWorld, path: str) -> None:
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
def test_a_malformed_id_is_not_found(world: StatusApiWorld, task_id: str) -> None:
    assert world.get(f"/status/{task_id}").status_code == 404


def test_a_task_whose_news_is_under_way_is_asked_for_again(world: StatusApiWorld) -> None:
    response = world.get(SHORT)
    assert_problem(response, 503, "status_lagging")
    assert response.headers["Retry-After"] == "2"


def test_a_task_that_only_the_bucket_knows_is_answered_from_there(world: StatusApiWorld) -> None:
    world.records.commit(make_outcome())
    assert world.json(SHORT)["status"] == "done"
    assert world.json(WHOLE)["state"] == "succeeded"


@pytest.mark.parametrize(("part", "code"), [("views", "view_store_error"), ("objects", "storage_error")])
def test_a_database_or_store_that_is_away_is_503_and_tells_nothing_of_the_inside(
    world: StatusApiWorld, part: str, code: str
) -> None:
    getattr(world, part).available = False
    response = world.get(SHORT)
    body = assert_problem(response, 503, code)
    assert "switched off" not in body["detail"]
    assert "Retry-After" in response.headers


@pytest.mark.parametrize("wait", ["-1", "61", "nan", "inf", "abc", "", "1e9"])
def test_a_wait_out_of_range_is_refused_by_name(world: StatusApiWorld, wait: str) -> None:
    world.apply(make_event())
    body = assert_problem(world.get(f"{SHORT}?wait={wait}"), 400, "invalid_request")
    assert body["errors"][0]["field"] == "wait"
    assert body["error"]["param"] == "wait"


@pytest.mark.parametrize("path", [SHORT, WHOLE])
def test_a_wait_is_as_long_as_was_asked_for(world: StatusApiWorld, path: str) -> None:
    world.apply(make_event())
    assert world.json(f"{path}?wait=2.5")["state"] == "queued"
    assert world.slept == pytest.approx(2.5)


def test_other_methods_and_places_are_refused_as_problems(world: StatusApiWorld) -> None:
    key = {"X-API-Key": world.key}
    refused = world.client.post(SHORT, headers=key)
    assert_problem(refused, 405, "method_not_allowed")
    assert "GET" in refused.headers["Allow"]
    assert_problem(world.get("/nowhere"), 404, "not_found")


def test_the_request_id_is_kept_when_it_is_well_formed(world: StatusApiWorld) -> None:
    world.apply(make_event())
    assert world.get(SHORT, **{"X-Request-ID": "abcdef0123456789"}).headers["X-Request-ID"] == "abcdef0123456789"
    made = world.get(SHORT, **{"X-Request-ID": "bad id; drop"}).headers["X-Request-ID"]
    assert len(made) == 32


def test_health_readiness_and_metrics(world: StatusApiWorld) -> None:
    world.apply(make_event())
    world.get(SHORT)
    assert world.client.get("/healthz").get_json() == {"status": "ok"}
    assert world.client.get("/readyz").status_code == 200
    world.problem = "gone"
    response = world.client.get("/readyz")
    assert (response.status_code, response.get_json()["checks"]) == (503, {"database": "gone", "keys": "ok"})
    metrics = world.client.get("/metrics").text
    assert 'endpoint="tasks.status",method="GET",status="200"' in metrics
    assert TASK_ID not in metrics


def test_progress_never_runs_backwards_through_the_phases(world: StatusApiWorld) -> None:
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


def test_a_tasks_image_is_shown_by_its_content_and_not_by_its_key(world: StatusApiWorld) -> None:
    world.apply(make_event(EventType.QUEUED, make_task(params=make_params(image=make_image()))))
    shown = world.json(WHOLE)["params"]["image"]
    assert shown == {"media_type": "image/png", "bytes": 1000, "sha256": "1" * 64}
