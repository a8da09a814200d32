"""Tasks of the anonymous plan, read without a key; everything else stays hidden."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from shared.auth.plans import load_plans
from shared.domain.plans import ANONYMOUS_PREFIX
from shared.ids import new_task_id
from tests.support.builders import TASK_ID, TENANT, make_event, make_task
from tests.support.status_api import ARTIFACT, PICTURE, SHORT, WHOLE, StatusApiWorld, assert_problem
from tests.support.tenants import plans_with_anonymous

if TYPE_CHECKING:
    from pathlib import Path

    from werkzeug.test import TestResponse

STRANGER = f"{ANONYMOUS_PREFIX}0123456789abcdef0123456789abcdef"
HERE, THERE = "198.51.100.7", "198.51.100.8"
PATHS = (SHORT, WHOLE, ARTIFACT)


@pytest.fixture
def world(tmp_path: Path) -> StatusApiWorld:
    """The anonymous plan is on."""
    return StatusApiWorld(load_plans(plans_with_anonymous(tmp_path)))


def look(world: StatusApiWorld, path: str, address: str = HERE) -> TestResponse:
    return world.client.get(path, headers={"X-Forwarded-For": address})


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("address", [HERE, THERE])
def test_its_id_opens_an_anonymous_task_from_any_address(world: StatusApiWorld, path: str, address: str) -> None:
    world.succeed(tenant_id=STRANGER)
    assert look(world, path, address).status_code == 200
    assert look(world, ARTIFACT, address).data == PICTURE


@pytest.mark.parametrize("path", PATHS)
def test_its_id_opens_an_anonymous_task_with_any_key_too(world: StatusApiWorld, path: str) -> None:
    world.succeed(tenant_id=STRANGER)
    assert world.get(path).status_code == 200


@pytest.mark.parametrize("path", PATHS)
def test_a_tenants_task_stays_hidden_without_its_key(world: StatusApiWorld, path: str) -> None:
    world.succeed(tenant_id=TENANT)
    world.views.apply_events([], seen_until=world.now)
    hidden, absent = look(world, path), look(world, path.replace(TASK_ID, new_task_id_of_old()))
    assert assert_problem(hidden, 404, "task_not_found")["detail"] == absent.get_json(force=True)["detail"]
    assert_problem(world.client.get(path, headers={"X-API-Key": world.other_key}), 404, "task_not_found")
    assert world.get(path).status_code == 200


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("header", [{"X-API-Key": "wrong"}, {"Authorization": "Basic x"}])
def test_a_wrong_key_is_refused_where_none_would_do(world: StatusApiWorld, path: str, header: dict[str, str]) -> None:
    world.succeed(tenant_id=STRANGER)
    assert_problem(world.client.get(path, headers=header), 401, "unauthorized")


def test_while_the_plan_is_off_a_key_is_needed_for_anonymous_tasks_too() -> None:
    world = StatusApiWorld()
    world.succeed(tenant_id=STRANGER)
    assert_problem(look(world, SHORT), 401, "unauthorized")
    assert world.get(SHORT).status_code == 200


def test_guessed_ids_count_as_guessed_keys_do(world: StatusApiWorld) -> None:
    world.apply(make_event(task=make_task(tenant_id=STRANGER)))
    world.views.apply_events([], seen_until=world.now)
    for _ in range(30):
        assert_problem(look(world, f"/status/{new_task_id_of_old()}"), 404, "task_not_found")
    refused = look(world, SHORT)
    assert_problem(refused, 429, "too_many_failures")
    assert refused.headers["Retry-After"] == "2"
    assert look(world, SHORT, THERE).status_code == 200
    world.tenants.seconds += 60
    assert look(world, SHORT).status_code == 200


def test_reading_what_is_there_costs_nothing(world: StatusApiWorld) -> None:
    world.apply(make_event(task=make_task(tenant_id=STRANGER)))
    assert {look(world, SHORT).status_code for _ in range(100)} == {200}


def test_unknown_keys_are_bounded_here_as_well(world: StatusApiWorld) -> None:
    world.succeed(tenant_id=TENANT)
    assert world.get(SHORT).status_code == 200
    headers = {"X-API-Key": "wrong"}
    codes = [world.client.get(SHORT, headers=headers).status_code for _ in range(40)]
    assert codes == [401] * 30 + [429] * 10
    assert world.get(SHORT).status_code == 200


def new_task_id_of_old() -> str:
    """An id that was made long before the world's time, so that no news of it can be under way."""
    return "01890a5d-ac96-7" + new_task_id()[15:]
