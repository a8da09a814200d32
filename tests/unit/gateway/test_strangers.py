"""Requests without a key, and with keys that are guessed."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any

import pytest

from services.gateway.admission.local import LocalAdmission
from shared.auth.keys import generate_key
from shared.auth.plans import load_plans
from shared.domain.plans import is_anonymous
from shared.domain.task import Lane, TaskState
from shared.storage.records import TaskRecords
from tests.support.builders import make_outcome
from tests.support.tenants import TenantWorld, plans_with_anonymous
from tests.unit.gateway.conftest import Gateway, gateway_over

if TYPE_CHECKING:
    from pathlib import Path

    from werkzeug.test import TestResponse

    from services.gateway.admission.ports import Application
    from services.gateway.prompt.validate import PromptValidator

HERE, THERE = "198.51.100.7", "198.51.100.8"
LAKE: dict[str, Any] = {"prompt": "a lake"}


class OneProcess(LocalAdmission):
    """An Admission without a shared ledger."""

    problem = None

    def lower(self, application: Application, quality: str) -> str:
        del application
        return quality

    def withdraw(self, application: Application) -> None:
        del application


@pytest.fixture
def open_gateway(prompts: PromptValidator, tmp_path: Path) -> Gateway:
    """The anonymous plan is on, and rates are counted."""
    tenants = TenantWorld(plans=load_plans(plans_with_anonymous(tmp_path)))
    return gateway_over(prompts, tenants, OneProcess(lambda _model: (0, 0.0)))


def submit(gateway: Gateway, address: str = HERE, path: str = "/generate", **headers: str) -> TestResponse:
    return gateway.client.post(path, json=LAKE, headers={"X-Forwarded-For": address, **headers})


def guess(gateway: Gateway, key: str | None = None, address: str = HERE) -> tuple[int, str]:
    answer = submit(gateway, address, **{"X-API-Key": key or generate_key()})
    return answer.status_code, (answer.get_json() or {}).get("code", "")


@pytest.mark.parametrize("path", ["/generate", "/api/v1/generate"])
def test_while_the_plan_is_off_a_key_is_needed(gateway: Gateway, path: str) -> None:
    answer = submit(gateway, path=path)
    assert (answer.status_code, answer.get_json()["code"]) == (401, "unauthorized")
    assert gateway.published() == 0


@pytest.mark.parametrize("path", ["/generate", "/api/v1/generate"])
def test_a_request_without_a_key_is_its_addresss(open_gateway: Gateway, path: str) -> None:
    answer = submit(open_gateway, path=path)
    assert answer.status_code == 202
    (task,) = open_gateway.tasks()
    assert is_anonymous(task.tenant_id)
    assert HERE not in task.model_dump_json()
    assert (task.lane, task.priority) == (Lane.BATCH, 1)
    assert answer.headers["RateLimit-Policy"] == '"60s";q=5;w=60'


def test_an_address_is_one_tenant_and_another_is_another(open_gateway: Gateway) -> None:
    for address in (HERE, HERE, THERE, "2001:db8::1", "2001:db8::2"):
        assert submit(open_gateway, address).status_code == 202
    here, again, there, six, same_network = [task.tenant_id for task in open_gateway.tasks()]
    assert here == again
    assert six == same_network
    assert len({here, there, six}) == 3


def test_five_a_minute_for_each_address(open_gateway: Gateway) -> None:
    answers = [submit(open_gateway) for _ in range(8)]
    assert [answer.status_code for answer in answers] == [202] * 5 + [429] * 3
    assert answers[-1].get_json()["code"] == "rate_limited"
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 12
    assert submit(open_gateway, THERE).status_code == 202
    assert submit(open_gateway, **open_gateway.headers).status_code == 202


@pytest.mark.parametrize(
    "header",
    [
        {"X-API-Key": "wrong"},
        {"X-API-Key": ""},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": "Bearer\tx"},
        {"Authorization": "Basic dXNlcjpwYXNz"},
        {"Authorization": "Negotiate"},
        {"Authorization": ","},
        {"Authorization": "Bearer a, Bearer b"},
        {"Authorization": "Bearer \u00e4\u00f6\u00fc"},
        {"Authorization": "Bearer " + "x" * 65_536},
        {"X-API-Key": "x" * 65_536},
    ],
    ids=lambda header: str(header)[:40],
)
def test_what_was_meant_as_a_key_is_never_anonymous(open_gateway: Gateway, header: dict[str, str]) -> None:
    answer = submit(open_gateway, **header)
    assert (answer.status_code, answer.get_json()["code"]) == (401, "unauthorized")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert open_gateway.published() == 0


def test_a_revoked_key_is_refused_as_such_however_often(open_gateway: Gateway) -> None:
    key = open_gateway.key
    open_gateway.tenants.operator.revoke_key(key[4:12])
    assert {guess(open_gateway, key) for _ in range(100)} == {(401, "key_revoked")}


def test_after_thirty_unknown_keys_of_an_address_the_next_is_429(gateway: Gateway) -> None:
    assert [guess(gateway) for _ in range(30)] == [(401, "unauthorized")] * 30
    answer = submit(gateway, **{"X-API-Key": generate_key()})
    assert (answer.status_code, answer.get_json()["code"]) == (429, "too_many_failures")
    assert answer.headers["Retry-After"] == "2"
    assert guess(gateway, address=THERE) == (401, "unauthorized")
    gateway.tenants.seconds += 2
    assert guess(gateway) == (401, "unauthorized")


@pytest.mark.exhaustive
def test_ten_thousand_guessed_keys_cost_thirty_hashes_and_look_ups(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = []

    def digest(key: bytes, message: bytes, name: str) -> bytes:
        hashed.append(message)
        return real(key, message, name)

    real = hmac.digest
    monkeypatch.setattr("shared.auth.keys.hmac.digest", digest)
    gateway.tenants.store.reads = 0
    refused = 0
    for _ in range(10_000):
        headers = {"X-API-Key": generate_key(), "X-Forwarded-For": HERE}
        refused += gateway.client.get("/api/v1/models", headers=headers).status_code == 429
    assert refused == 10_000 - 30
    assert len(hashed) == 30
    assert gateway.tenants.store.reads == 30


def test_a_key_that_worked_here_passes_whatever_its_neighbours_guess(gateway: Gateway) -> None:
    assert guess(gateway, gateway.key)[0] == 202
    for _ in range(40):
        guess(gateway)
    assert guess(gateway, gateway.key)[0] == 202
    gateway.tenants.seconds += 1.5  # the bucket is empty still
    assert guess(gateway, gateway.vip_key) == (429, "too_many_failures")
    gateway.tenants.seconds += 60
    assert guess(gateway, gateway.vip_key)[0] == 202


def test_wrong_secrets_behind_a_known_prefix_count_and_ask_the_store_no_more(gateway: Gateway) -> None:
    assert guess(gateway, gateway.key)[0] == 202
    gateway.tenants.store.reads = 0
    wrong = f"atl_{gateway.key[4:12]}_{'x' * 43}"
    codes = [guess(gateway, wrong) for _ in range(50)]
    assert codes == [(401, "unauthorized")] * 30 + [(429, "too_many_failures")] * 20
    assert gateway.tenants.store.reads == 0
    assert guess(gateway, gateway.key)[0] == 202


def test_a_store_that_is_away_counts_no_failure(gateway: Gateway) -> None:
    gateway.tenants.store.available = False
    assert {guess(gateway) for _ in range(100)} == {(503, "keys_unavailable")}
    gateway.tenants.store.available = True
    gateway.tenants.seconds += 1
    assert guess(gateway, gateway.key)[0] == 202


def test_a_client_cannot_choose_its_address(gateway: Gateway) -> None:
    for number in range(40):
        guess(gateway, address=f"6.6.6.{number}, {HERE}")
    assert guess(gateway, address=f"7.7.7.7, {HERE}") == (429, "too_many_failures")


def test_a_strangers_task_is_tried_again_from_its_address_alone(open_gateway: Gateway) -> None:
    submit(open_gateway)
    (task,) = open_gateway.tasks()
    TaskRecords(open_gateway.store).commit(make_outcome(task=task, state=TaskState.FAILED))

    def retry(**headers: str) -> int:
        return open_gateway.client.post(f"/api/v1/tasks/{task.task_id}/retry", headers=headers).status_code

    assert retry(**{"X-Forwarded-For": THERE}) == 404
    assert retry(**open_gateway.headers) == 404
    assert retry(**{"X-Forwarded-For": HERE}) == 202
    assert {again.tenant_id for again in open_gateway.tasks()} == {task.tenant_id}
