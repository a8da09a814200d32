from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from services.status.api.list_query import cursor_behind
from shared.auth.plans import load_plans
from shared.domain.task import EventType, TaskState
from shared.ids import first_task_id
from tests.support.builders import NOW, TASK_ID, TENANT, make_event, make_task
from tests.support.status_api import OPERATOR_KEY, StatusApiWorld, assert_problem
from tests.support.tenants import plans_with_anonymous

if TYPE_CHECKING:
    from pathlib import Path

LIST = "/api/v1/tasks"


def made_at(minutes: int) -> datetime:
    return NOW + timedelta(minutes=minutes)


def task_id(minutes: int) -> str:
    return first_task_id(made_at(minutes).timestamp())


@pytest.fixture
def world() -> StatusApiWorld:
    """A task a minute: eight of our tenant, of them two done and three of another model, and one of another tenant."""
    world = StatusApiWorld()
    for minutes in range(8):
        kind = EventType.SUCCEEDED if minutes < 2 else EventType.QUEUED
        model = "tiny-newbie" if minutes % 3 == 0 else "simulated"
        task = make_task(task_id=task_id(minutes), submitted_at=made_at(minutes), model=model)
        world.apply(make_event(kind, task))
    world.apply(make_event(task=make_task(task_id=task_id(9), tenant_id="other")))
    return world


def listed(world: StatusApiWorld, query: str = "", **headers: str) -> list[int]:
    body: dict[str, Any] = world.client.get(LIST + query, headers=headers or {"X-API-Key": world.key}).get_json(
        force=True
    )
    return [minutes_of(task["task_id"]) for task in body["tasks"]]


def minutes_of(text: str) -> int:
    return {task_id(minutes): minutes for minutes in range(10)}[text]


def test_a_tenant_sees_its_own_tasks_newest_first(world: StatusApiWorld) -> None:
    assert listed(world) == [7, 6, 5, 4, 3, 2, 1, 0]
    assert listed(world, **{"X-API-Key": world.other_key}) == [9]


def test_a_task_in_a_list_says_how_it_is_and_where_its_results_are(world: StatusApiWorld) -> None:
    task = world.json(f"{LIST}?state=succeeded&limit=1")["tasks"][0]
    assert (task["tenant_id"], task["state"], task["client_state"]) == (TENANT, "succeeded", "done")
    assert (task["model"], task["seed"], task["progress"]["fraction"]) == ("simulated", 7, 1.0)
    assert task["artifacts"][0]["url"] == f"{LIST}/{task['task_id']}/artifacts/0"
    assert task["links"]["events"] == f"{LIST}/{task['task_id']}/events"
    assert "params" not in task


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("state=succeeded", [1, 0]),
        ("state=succeeded,queued&limit=3", [7, 6, 5]),
        ("state=succeeded&state=failed", [1, 0]),
        ("state=failed", []),
        ("model=tiny-newbie", [6, 3, 0]),
        ("model=unheard-of", []),
        ("since=2026-01-05T12:05:00Z", [7, 6, 5]),
        ("since=2026-01-05T14:05:00%2B02:00", [7, 6, 5]),
        ("until=2026-01-05T12:02:00Z", [1, 0]),
        ("since=2026-01-05t12:01:00.000z&until=2026-01-05T12:03:00Z", [2, 1]),
        ("since=1970-01-01T00:00:00Z&until=9999-12-31T23:59:59Z&limit=2", [7, 6]),
        ("model=tiny-newbie&state=queued&until=2026-01-05T12:05:00Z", [3]),
    ],
)
def test_filters_add_up(world: StatusApiWorld, query: str, expected: list[int]) -> None:
    assert listed(world, f"?{query}") == expected


def test_pages_follow_each_other_whatever_comes_meanwhile(world: StatusApiWorld) -> None:
    first = world.json(f"{LIST}?limit=3")
    world.apply(make_event(task=make_task(task_id=task_id(8))))
    second = world.json(f"{LIST}?limit=3&cursor={first['next_cursor']}")
    third = world.json(f"{LIST}?limit=3&cursor={second['next_cursor']}")
    pages = [[minutes_of(task["task_id"]) for task in page["tasks"]] for page in (first, second, third)]
    assert pages == [[7, 6, 5], [4, 3, 2], [1, 0]]
    assert third["next_cursor"] is None
    assert world.json(f"{LIST}?limit=9")["next_cursor"] is None


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=-1", "limit"),
        ("limit=1e1", "limit"),
        ("limit=99999999999999999999", "limit"),
        ("limit=1&limit=2", "limit"),
        ("limit=", "limit"),
        ("cursor=", "cursor"),
        ("cursor=x", "cursor"),
        (f"cursor={TASK_ID}", "cursor"),
        ("cursor=AAAAAAAAAAAAAAAAAAAAAA", "cursor"),
        (f"cursor={cursor_behind(TASK_ID)[:-1]}z", "cursor"),
        (f"cursor={'A' * 4000}", "cursor"),
        ("cursor=%00", "cursor"),
        ("state=running,asleep", "state"),
        ("state=", "state"),
        ("state=QUEUED", "state"),
        ("state=generating", "state"),
        ("model=", "model"),
        ("model=a%00b", "model"),
        ("model=../x", "model"),
        (f"model={'m' * 64}", "model"),
        ("since=yesterday", "since"),
        ("since=2026-01-05", "since"),
        ("since=2026-01-05T12:00:00", "since"),
        ("since=2026-02-31T12:00:00Z", "since"),
        ("since=1969-12-31T23:59:59Z", "since"),
        ("since=0001-01-01T00:00:00%2B23:59", "since"),
        ("since=1767614400", "since"),
        ("until=٢٠٢٦-01-05T12:00:00Z", "until"),
        ("since=2026-01-05T12:00:00Z&until=2026-01-05T12:00:00Z", "until"),
        ("tenant=other", "tenant"),
        ("order=asc", "order"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_name(world: StatusApiWorld, query: str, field: str) -> None:
    body = assert_problem(world.get(f"{LIST}?{query}"), 400, "invalid_request")
    assert [error["field"] for error in body["errors"]] == [field]


def test_everything_wrong_is_named_at_once(world: StatusApiWorld) -> None:
    body = assert_problem(world.get(f"{LIST}?limit=x&cursor=x&state=x&colour=x"), 400, "invalid_request")
    assert {error["field"] for error in body["errors"]} == {"limit", "cursor", "state", "colour"}


def test_an_operator_sees_all_and_may_choose_a_tenant(world: StatusApiWorld) -> None:
    operator = {"Authorization": f"Bearer {OPERATOR_KEY}"}
    assert listed(world, "?limit=3", **operator) == [9, 7, 6]
    assert listed(world, "?tenant=other", **operator) == [9]
    assert listed(world, "?tenant=nobody", **operator) == []


@pytest.mark.parametrize("headers", [{}, {"X-API-Key": "wrong"}, {"Authorization": f"Bearer {OPERATOR_KEY}x"}])
def test_without_a_key_there_is_no_list(world: StatusApiWorld, headers: dict[str, str], tmp_path: Path) -> None:
    assert_problem(world.client.get(LIST, headers=headers), 401, "unauthorized")
    with_strangers = StatusApiWorld(load_plans(plans_with_anonymous(tmp_path)))
    assert_problem(with_strangers.client.get(LIST, headers=headers), 401, "unauthorized")


def test_a_database_that_is_away_is_said(world: StatusApiWorld) -> None:
    world.views.available = False
    assert_problem(world.get(LIST), 503, "view_store_error")


def test_every_state_can_be_asked_for(world: StatusApiWorld) -> None:
    for state in TaskState:
        assert world.get(f"{LIST}?state={state}").status_code == 200
