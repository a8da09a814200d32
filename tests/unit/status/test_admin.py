from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from services.status.api import admin
from shared.contracts.open_tasks import OpenTaskPage
from shared.domain.task import EventType
from shared.ids import new_task_id
from tests.support.builders import TASK_ID, TENANT, make_event, make_task
from tests.support.status_api import OPERATOR_KEY, StatusApiWorld, assert_problem

if TYPE_CHECKING:
    from werkzeug.test import TestResponse

PATH = "/api/v1/admin/tasks"


@pytest.fixture
def world() -> StatusApiWorld:
    return StatusApiWorld()


def ask(world: StatusApiWorld, query: str = "state=open", key: str = OPERATOR_KEY) -> TestResponse:
    return world.client.get(f"{PATH}?{query}", headers={"Authorization": f"Bearer {key}"})


def test_open_tasks_of_every_tenant_are_listed_and_ended_ones_are_not(world: StatusApiWorld) -> None:
    ids = sorted(new_task_id() for _ in range(len(EventType)))
    for task_id, event_type in zip(ids, EventType, strict=True):
        world.apply(make_event(event_type, make_task(task_id=task_id, tenant_id=f"t-{event_type}")))
    page = OpenTaskPage.model_validate_json(ask(world).data)
    assert {task.tenant_id for task in page.tasks} == {"t-queued", "t-started", "t-retrying"}
    assert all(task.gpu_seconds == 0.5 for task in page.tasks)
    assert page.next_cursor is None


def test_pages_follow_each_other(world: StatusApiWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin, "PAGE_VIEWS", 2)
    ids = sorted(new_task_id() for _ in range(5))
    world.apply(*(make_event(task=make_task(task_id=task_id)) for task_id in ids))
    world.apply(make_event(EventType.FAILED, make_task(task_id=ids[2])))
    found, query = [], "state=open"
    while query:
        page = OpenTaskPage.model_validate_json(ask(world, query).data)
        found.append([task.task_id for task in page.tasks])
        query = f"state=open&cursor={page.next_cursor}" if page.next_cursor else ""
    assert found == [[ids[4], ids[3]], [ids[1], ids[0]], []]


def test_no_tenants_key_opens_it(world: StatusApiWorld) -> None:
    assert_problem(ask(world, key=world.key), 401, "unauthorized")
    assert_problem(world.client.get(f"{PATH}?state=open"), 401, "unauthorized")
    assert_problem(ask(world, key="\u00e4"), 401, "unauthorized")


def test_guesses_are_bounded(world: StatusApiWorld) -> None:
    codes = [ask(world, key="wrong").status_code for _ in range(40)]
    assert codes == [401] * 30 + [429] * 10
    assert ask(world).status_code == 200


@pytest.mark.parametrize("query", ["", "state=all", "state=open&cursor=x", f"state=open&cursor={TASK_ID}x"])
def test_what_it_does_not_understand_is_400(world: StatusApiWorld, query: str) -> None:
    assert_problem(ask(world, query), 400, "invalid_request")


def test_what_is_only_known_to_progress_is_left_out(world: StatusApiWorld) -> None:
    world.apply(make_event(EventType.PROGRESS, make_task(tenant_id=TENANT)))
    assert OpenTaskPage.model_validate_json(ask(world).data).tasks == ()
