"""Whatever is sent: accepted whole or refused with a 4xx, and never an error of ours."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.gateway.api.schemas import GenerateRequest

if TYPE_CHECKING:
    from werkzeug.test import TestResponse

    from tests.unit.gateway.conftest import Gateway

# One application serves all examples of a test: what an example leaves behind is part of what the next one meets.
many = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
plausible = st.sampled_from(["a lake", "simulated", "tiny-newbie", 64, 128, 1, 3, 2.5, "<caption>x</caption>", None])
names = st.sampled_from(sorted(GenerateRequest.model_fields)) | st.text(max_size=12)
documents = st.dictionaries(names, plausible | values, max_size=8)


def answered(gateway: Gateway, answer: TestResponse, before: int) -> None:
    taken = gateway.published() - before
    if answer.status_code == 202:
        assert taken == 2  # the task and its event
        return
    assert answer.status_code in {400, 413, 422}, answer.text
    assert taken == 0
    problem: dict[str, Any] = answer.get_json()
    assert problem["code"] == problem["error"]["code"]
    assert problem["detail"]


@many
@given(body=st.binary(max_size=200))
def test_any_bytes(gateway: Gateway, body: bytes) -> None:
    before = gateway.published()
    answer = gateway.client.post("/generate", data=body, content_type="application/json", headers=gateway.headers)
    answered(gateway, answer, before)


@many
@given(document=documents)
def test_any_document(gateway: Gateway, document: dict[str, Any]) -> None:
    before = gateway.published()
    body = json.dumps(document).encode()
    answer = gateway.client.post(
        "/api/v1/generate", data=body, content_type="application/json", headers=gateway.headers
    )
    answered(gateway, answer, before)


@many
@given(changes=documents)
def test_any_change_of_an_acceptable_document(gateway: Gateway, changes: dict[str, Any]) -> None:
    before = gateway.published()
    body = json.dumps({"prompt": "a lake"} | changes).encode()
    answer = gateway.client.post("/generate", data=body, content_type="application/json", headers=gateway.headers)
    answered(gateway, answer, before)


HEADERS = ("X-API-Key", "Authorization", "X-Request-ID", "traceparent", "Content-Type", "X-Forwarded-For")


@many
@given(
    headers=st.dictionaries(
        st.sampled_from(
            ["X-API-Key", "Authorization", "X-Request-ID", "traceparent", "Content-Type", "X-Forwarded-For"]
        ),
        st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=80),
    )
)
def test_any_headers(gateway: Gateway, headers: dict[str, str]) -> None:
    gateway.tenants.seconds += 60  # each example has the failures of a minute
    answer = gateway.client.post("/generate", data=b"{}", headers=headers)
    assert answer.status_code in {401, 415, 422}, answer.text
    assert gateway.published() == 0
