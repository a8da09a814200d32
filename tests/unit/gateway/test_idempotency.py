"""Requests that are sent again, through the real application over records in memory."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.admission.errors import RateLimitedError
from services.gateway.idempotency.errors import (
    InvalidIdempotencyKeyError,
)
from services.gateway.idempotency.wanted import digest, read_key, wanted
from shared.domain.errors import BrokerUnavailableError, PublishUnknownError

if TYPE_CHECKING:
    from werkzeug.test import TestResponse

    from services.gateway.admission.ports import Admitted, Application
    from tests.unit.gateway.conftest import Gateway

LAKE = {"prompt": "a lake", "model": "simulated"}
SEEDED = {**LAKE, "seed": 5}


def post(gateway: Gateway, body: dict[str, Any] = LAKE, path: str = "/api/v1/generate", **headers: str) -> TestResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return gateway.client.post(path, json=body, headers={**gateway.headers, **named})


def tasks(gateway: Gateway) -> list[str]:
    return [task.task_id for task in gateway.tasks("simulated")]


def same(answer: TestResponse, first: TestResponse) -> bool:
    assert answer.status_code == 202, answer.text
    assert answer.headers["Location"] == first.headers["Location"]
    assert answer.headers["X-Task-Id"] == first.headers["X-Task-Id"]
    return answer.data == first.data and answer.headers.get("Idempotency-Replayed") == "true"


@pytest.mark.parametrize("path", ["/generate", "/api/v1/generate"])
def test_a_key_that_comes_again_gets_the_same_answer(gateway: Gateway, path: str) -> None:
    first = post(gateway, path=path, Idempotency_Key="order 1")
    assert first.status_code == 202
    assert "Idempotency-Replayed" not in first.headers
    for key in ("order 1", '"order 1"'):
        assert same(post(gateway, path=path, Idempotency_Key=key), first)
    assert len(tasks(gateway)) == 1


def test_spaces_and_the_order_of_fields_are_no_difference(gateway: Gateway) -> None:
    first = post(gateway, Idempotency_Key="k")
    body = b'{ "model" : "simulated",\n "prompt":"a lake"}'
    headers = {**gateway.headers, "Idempotency-Key": "k"}
    again = gateway.client.post("/api/v1/generate", data=body, content_type="application/json", headers=headers)
    assert same(again, first)


@pytest.mark.parametrize(
    ("body", "path"),
    [({**LAKE, "prompt": "a hill"}, "/api/v1/generate"), (LAKE, "/generate"), ({"nonsense": 1}, "/api/v1/generate")],
    ids=["another prompt", "another path", "nothing valid"],
)
def test_a_key_for_another_request_is_refused(gateway: Gateway, body: dict[str, Any], path: str) -> None:
    post(gateway, Idempotency_Key="k")
    answer = post(gateway, body, path, Idempotency_Key="k")
    assert (answer.status_code, answer.get_json()["code"]) == (422, "idempotency_key_reused")
    assert len(tasks(gateway)) == 1


def test_the_same_key_of_another_tenant_is_another_key(gateway: Gateway) -> None:
    post(gateway, Idempotency_Key="k")
    answer = post(gateway, {**LAKE, "prompt": "a hill"}, Idempotency_Key="k", Authorization=f"Bearer {gateway.vip_key}")
    assert answer.status_code == 202
    assert len(set(tasks(gateway))) == 2
    assert all(re.fullmatch("key:[0-9a-f]{64}", name) for name in gateway.records.names())


def test_an_answer_comes_again_whatever_the_limits_say_now(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    first = post(gateway, Idempotency_Key="k")
    refuse_all(gateway, monkeypatch)
    assert post(gateway, Idempotency_Key="other").status_code == 429
    assert same(post(gateway, Idempotency_Key="k"), first)


def refuse_all(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    def admit(_application: Application) -> Admitted:
        message = "too many"
        raise RateLimitedError(message, retry_after_seconds=7)

    monkeypatch.setattr(gateway.submitter, "_admission", type("Full", (), {"admit": staticmethod(admit)}))


def test_a_refusal_is_forgotten(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        refuse_all(gateway, patch)
        assert post(gateway, Idempotency_Key="k").status_code == 429
    assert gateway.records.names() == set()
    gateway.publisher.failure = BrokerUnavailableError("down")
    assert post(gateway, Idempotency_Key="k").status_code == 503
    assert post(gateway, {"prompt": "x", "model": "absent"}, Idempotency_Key="k").status_code == 422
    gateway.publisher.failure = None
    answer = post(gateway, Idempotency_Key="k")
    assert answer.status_code == 202
    assert "Idempotency-Replayed" not in answer.headers


def test_an_unknown_submit_goes_on_under_its_id_even_if_a_retry_was_refused(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.publisher.failure = PublishUnknownError("no confirm")
    unknown = post(gateway, Idempotency_Key="k").get_json()["task_id"]
    gateway.publisher.failure = None
    with monkeypatch.context() as patch:
        refuse_all(gateway, patch)
        assert post(gateway, Idempotency_Key="k").status_code == 429
    answer = post(gateway, Idempotency_Key="k")
    assert (answer.status_code, answer.get_json()["task_id"]) == (202, unknown)
    assert tasks(gateway) == [unknown]


def test_records_that_are_away_refuse_keys_and_nothing_else(gateway: Gateway) -> None:
    gateway.records.available = False
    answer = post(gateway, Idempotency_Key="k")
    assert (answer.status_code, answer.get_json()["code"]) == (503, "idempotency_unavailable")
    assert int(answer.headers["Retry-After"]) > 0
    assert gateway.published() == 0
    for body, retry in ((LAKE, "0"), (SEEDED, "0"), (LAKE, "2")):
        assert post(gateway, body, x_stainless_retry_count=retry).status_code == 202
    assert len(tasks(gateway)) == 3


@pytest.mark.parametrize("header", ["", '"', '"a', '""', '"a"; b', "é", "x" * 256, '"a\\n"'])
def test_a_key_that_is_none_is_refused(gateway: Gateway, header: str) -> None:
    answer = post(gateway, Idempotency_Key=header)
    assert (answer.status_code, answer.get_json()["code"]) == (400, "invalid_idempotency_key")
    assert gateway.published() == 0


@given(key=st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=255))
def test_a_quoted_key_is_what_it_quotes(key: str) -> None:
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')
    assert read_key(f'"{escaped}"') == key


@given(header=st.text(max_size=300))
def test_any_header_is_a_key_or_refused(header: str) -> None:
    try:
        key = read_key(header)
    except InvalidIdempotencyKeyError:
        return
    assert key is not None
    assert 1 <= len(key) <= 255
    assert key.isascii()
    assert key.isprintable()


def test_a_body_that_nests_deeper_than_can_be_written_has_a_digest_all_the_same(gateway: Gateway) -> None:
    body = '{"prompt": ' + "[" * 900 + "]" * 900 + "}"
    headers = {**gateway.headers, "Idempotency-Key": "k"}
    answer = gateway.client.post("/generate", data=body, content_type="application/json", headers=headers)
    assert answer.status_code == 422


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


def written(document: dict[str, Any]) -> str:
    return json.dumps(document, sort_keys=True)


@given(document=st.dictionaries(st.sampled_from("abcd"), json_values), other=st.dictionaries(st.just("a"), json_values))
def test_a_digest_is_of_the_content(document: dict[str, Any], other: dict[str, Any]) -> None:
    turned = dict(reversed(document.items()))
    assert digest("/generate", turned) == digest("/generate", document)
    assert (digest("/generate", other) == digest("/generate", document)) is (written(other) == written(document))
    assert digest("/api/v1/generate", document) != digest("/generate", document)


def test_without_a_key_an_equal_request_with_its_seed_is_the_same_task(gateway: Gateway) -> None:
    first = post(gateway, SEEDED)
    assert same(post(gateway, SEEDED), first)
    assert post(gateway, {**SEEDED, "seed": 6}).status_code == 202
    assert (
        post(gateway, SEEDED, Authorization=f"Bearer {gateway.vip_key}").headers["X-Task-Id"]
        != first.headers["X-Task-Id"]
    )
    assert len(tasks(gateway)) == 3


def test_without_seed_and_key_each_request_is_a_task_of_its_own_and_costs_one_write(gateway: Gateway) -> None:
    ids = {post(gateway, x_stainless_retry_count=count).headers["X-Task-Id"] for count in ("0", "", "x", "-1")}
    assert len(ids) == 4
    assert gateway.records.calls == ["leave"] * 4


def test_a_client_that_counts_no_retries_leaves_nothing_behind(gateway: Gateway) -> None:
    assert len({post(gateway).headers["X-Task-Id"] for _ in range(3)}) == 3
    assert gateway.records.calls == []


def test_a_retry_that_says_so_is_the_task_of_the_request_before_it(gateway: Gateway) -> None:
    first = post(gateway, x_stainless_retry_count="0")
    for count in ("1", "2"):
        assert same(post(gateway, x_stainless_retry_count=count), first)
    # Once, because the first left no answer behind; the copy is the same task with the same seed.
    assert tasks(gateway) == [first.headers["X-Task-Id"]] * 2
    assert len({task.params.seed for task in gateway.tasks("simulated")}) == 1


def test_a_retry_of_what_was_refused_is_new(gateway: Gateway) -> None:
    gateway.publisher.failure = BrokerUnavailableError("down")
    assert post(gateway, x_stainless_retry_count="0").status_code == 503
    gateway.publisher.failure = None
    answer = post(gateway, x_stainless_retry_count="1")
    assert answer.status_code == 202
    assert "Idempotency-Replayed" not in answer.headers


def test_a_retry_of_an_unknown_submit_goes_on_under_its_id(gateway: Gateway) -> None:
    for body in (LAKE, SEEDED):
        gateway.publisher.failure = PublishUnknownError("no confirm")
        unknown = post(gateway, body, x_stainless_retry_count="0").get_json()["task_id"]
        gateway.publisher.failure = None
        assert post(gateway, body, x_stainless_retry_count="1").get_json()["task_id"] == unknown


def test_the_headers_are_read_whatever_their_values() -> None:
    read = wanted("acme", "/generate", {"seed": None}, key_header=None, retry_header="01")
    assert (read.key, read.repeatable) == (None, True)
    assert not wanted("acme", "/generate", {"seed": None}, key_header=None, retry_header="00").repeatable
    assert wanted("acme", "/generate", {"seed": 0}, key_header=None, retry_header=None).repeatable
