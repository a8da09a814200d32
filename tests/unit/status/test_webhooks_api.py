from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from services.status.webhooks.ports import Hold
from shared.auth.plans import load_plans
from shared.domain.task import EventType
from shared.ids import new_task_id
from tests.support.builders import TASK_ID, make_event, make_task
from tests.support.status_api import WHOLE, StatusApiWorld, assert_problem
from tests.support.tenants import plans_with_anonymous

if TYPE_CHECKING:
    from pathlib import Path

    from werkzeug.test import TestResponse

URL = "https://example.com/hook"
LIST = "/api/v1/webhooks"


@pytest.fixture
def world() -> StatusApiWorld:
    return StatusApiWorld()


def owe(world: StatusApiWorld, **changes: object) -> None:
    fields = {"callback": URL, "callback_events": (EventType.STARTED, EventType.SUCCEEDED), **changes}
    task = make_task(**fields)
    world.apply(make_event(EventType.STARTED, task), make_event(EventType.SUCCEEDED, task))


def replay(world: StatusApiWorld, webhook_id: str, key: str | None = None) -> TestResponse:
    headers = {"Authorization": f"Bearer {key or world.key}"}
    return world.client.post(f"{LIST}/{webhook_id}/replay", headers=headers)


def ids(page: dict[str, Any]) -> list[str]:
    return [each["webhook_id"] for each in page["webhooks"]]


def test_a_tasks_callbacks_are_shown_with_what_came_of_them(world: StatusApiWorld) -> None:
    owe(world)
    first, second = world.json(f"{WHOLE}/webhooks")["webhooks"]
    assert first == {
        "webhook_id": f"msg_{TASK_ID.replace('-', '')}_1_started",
        "task_id": TASK_ID,
        "type": "task.started",
        "url": URL,
        "state": "pending",
        "tries": 0,
        "created_at": first["created_at"],
        "next_try_at": first["created_at"],
        "attempts": [],
    }
    assert second["type"] == "task.succeeded"


def test_a_task_without_any_has_none_and_an_unknown_one_is_404(world: StatusApiWorld) -> None:
    owe(world, callback=None)
    assert world.json(f"{WHOLE}/webhooks")["webhooks"] == []
    assert_problem(world.get(f"/api/v1/tasks/{new_task_id()}/webhooks"), 404, "task_not_found")


def test_foreign_ones_do_not_exist(world: StatusApiWorld) -> None:
    owe(world)
    (webhook_id, *_) = ids(world.json(LIST))
    world.key, own = world.other_key, world.key
    assert world.json(LIST)["webhooks"] == []
    assert_problem(world.get(f"{WHOLE}/webhooks"), 404, "task_not_found")
    assert_problem(replay(world, webhook_id), 404, "webhook_not_found")
    assert replay(world, webhook_id, own).status_code == 202


@pytest.mark.parametrize("webhook_id", ["x", "msg_", f"msg_{'0' * 32}_1_failed", "msg_%00", "a" * 500])
def test_an_id_of_nothing_is_404(world: StatusApiWorld, webhook_id: str) -> None:
    assert_problem(replay(world, webhook_id), 404, "webhook_not_found")


def test_the_list_goes_page_by_page(world: StatusApiWorld) -> None:
    owe(world)
    owe(world, task_id=new_task_id())
    everything = world.json(LIST)
    assert everything["next_cursor"] is None
    page = world.json(f"{LIST}?limit=3")
    rest = world.json(f"{LIST}?limit=3&cursor={page['next_cursor']}")
    assert ids(page) + ids(rest) == ids(everything) == sorted(ids(everything), reverse=True)
    assert rest["next_cursor"] is None
    assert world.json(f"{LIST}?state=delivered")["webhooks"] == []
    assert len(world.json(f"{LIST}?state=pending")["webhooks"]) == 4


@pytest.mark.parametrize(
    "query", ["state=done", "state=", "limit=0", "limit=201", "limit=x", "limit=99999", "cursor=x", "cursor="]
)
def test_a_query_that_makes_no_sense_is_400(world: StatusApiWorld, query: str) -> None:
    problem = assert_problem(world.get(f"{LIST}?{query}"), 400, "invalid_request")
    assert problem["errors"][0]["field"] == query.partition("=")[0]


def test_a_replay_is_due_at_once(world: StatusApiWorld) -> None:
    owe(world)
    (webhook_id, *_) = ids(world.json(LIST))
    answer = replay(world, webhook_id)
    assert answer.status_code == 202
    assert answer.get_json()["next_try_at"] == world.now.isoformat().replace("+00:00", "Z")
    hold = Hold(holder="one", now=world.now, until=world.now + timedelta(seconds=45))
    assert webhook_id in {each.notice.webhook_id for each in world.deliveries.take({"acme example.com": 2}, hold)}


def test_keys_are_asked_for_and_a_database_that_is_away_is_503(tmp_path: Path) -> None:
    world = StatusApiWorld(load_plans(plans_with_anonymous(tmp_path)))
    assert_problem(world.client.get(LIST), 401, "unauthorized")
    assert_problem(world.client.post(f"{LIST}/msg_{'0' * 32}_1_failed/replay"), 401, "unauthorized")
    world.views.available = False
    assert_problem(world.get(LIST), 503, "view_store_error")
