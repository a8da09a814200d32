"""Bad input: a clear 4xx that names what is wrong, and nothing published."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest

from services.gateway.admission.errors import QueueFullError
from services.gateway.api import schemas
from services.gateway.api.problems import REFUSALS
from services.gateway.api.schemas import GenerateRequest
from services.gateway.idempotency.errors import IdempotencyUnavailableError
from services.gateway.images.errors import ImagesBusyError
from shared.domain import errors
from shared.http.problems import COMMON_REFUSALS
from tests.unit.gateway.conftest import MAX_BODY_BYTES

if TYPE_CHECKING:
    from werkzeug.test import TestResponse

    from tests.unit.gateway.conftest import Gateway

LOLS = (
    "<!DOCTYPE lolz [<!ENTITY lol 'lol'>"
    + "".join(f"<!ENTITY lol{n} '{f'&lol{n - 1};' * 10}'>" for n in range(1, 10))
    + "]><caption>&lol9;</caption>"
)

BODIES: list[tuple[str, bytes, int, str]] = [
    ("empty body", b"", 400, "malformed_json"),
    ("not JSON", b"prompt=x", 400, "malformed_json"),
    ("cut off", b'{"prompt": "x"', 400, "malformed_json"),
    ("a list", b'["x"]', 400, "malformed_json"),
    ("NaN", b'{"prompt": "x", "guidance": NaN}', 400, "malformed_json"),
    ("UTF-16", '{"prompt": "x"}'.encode("utf-16"), 400, "malformed_json"),
    ("not UTF-8", b'{"prompt": "\xff\xfe"}', 400, "malformed_json"),
    ("nested without end", b"[" * 100_000, 400, "malformed_json"),
    ("lone surrogate", b'{"prompt": "\\ud800"}', 400, "malformed_json"),
]

FIELDS: list[tuple[dict[str, Any], str]] = [
    ({}, "prompt"),
    ({"prompt": 5}, "prompt"),
    ({"prompt": None}, "prompt"),
    ({"prompt": "x", "colour": "red"}, "colour"),
    ({"prompt": "x", "callback_url": 5}, "callback_url"),
    ({"prompt": "x", "width": "64"}, "width"),
    ({"prompt": "x", "width": 64.5}, "width"),
    ({"prompt": "x", "width": True}, "width"),
    ({"prompt": "x", "width": -64}, "width"),
    ({"prompt": "x", "width": 10**30}, "width"),
    ({"prompt": "x", "width": 16}, "width"),
    ({"prompt": "x", "height": 100}, "height"),
    ({"prompt": "x", "height": 4096}, "height"),
    ({"prompt": "x", "steps": 0}, "steps"),
    ({"prompt": "x", "steps": 51}, "steps"),
    ({"prompt": "x", "guidance": -1.0}, "guidance"),
    ({"prompt": "x", "guidance": 21.0}, "guidance"),
    ({"prompt": "x", "count": 5}, "count"),
    ({"prompt": "x", "num_frames": 2}, "num_frames"),
    ({"prompt": "x", "seed": -1}, "seed"),
    ({"prompt": "x", "seed": 2**63 - 1}, "seed"),
    ({"prompt": "x", "seed": 1.0}, "seed"),
]

PROMPTS: list[tuple[str, str]] = [
    ("", "prompt"),
    ("   \n", "prompt"),
    ("x" * 8001, "prompt"),
    ("<caption>x", "prompt"),
    ("<caption>x</captoin>", "prompt"),
    ("<unknown>x</unknown>", "prompt"),
    ("<caption>a\x00b</caption>", "prompt"),
    ("a\x1bb", "prompt"),
    ("<!DOCTYPE x><caption>x</caption>", "prompt"),
    ('<!DOCTYPE x SYSTEM "file:///etc/passwd"><caption>x</caption>', "prompt"),
    ("<!DOCTYPE x [<!ENTITY e SYSTEM 'http://127.0.0.1/'>]><caption>&e;</caption>", "prompt"),
    (LOLS, "prompt"),
    ("<caption>&e;</caption>", "prompt"),
    ("<?php echo 1 ?><caption>x</caption>", "prompt"),
    ('<?xml version="1.0" encoding="UTF-16"?><caption>x</caption>', "prompt"),
    ("<a>" * 1000, "prompt"),
    ("<caption/>" * 790, "prompt"),
]


def refused(gateway: Gateway, answer: TestResponse, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.mimetype == "application/problem+json"
    problem: dict[str, Any] = answer.get_json()
    assert problem["status"] == status
    assert problem["code"] == problem["error"]["code"]
    assert problem["request_id"] == answer.headers["X-Request-ID"]
    assert gateway.published() == 0
    return problem


@pytest.mark.parametrize(("name", "body", "status", "code"), BODIES, ids=[row[0] for row in BODIES])
def test_a_body_that_is_not_a_json_object(gateway: Gateway, name: str, body: bytes, status: int, code: str) -> None:
    del name
    answer = gateway.client.post("/generate", data=body, content_type="application/json", headers=gateway.headers)
    assert refused(gateway, answer, status)["code"] == code


def test_malformed_json_is_located(gateway: Gateway) -> None:
    body = b'{"prompt": "x",\n "width": }'
    answer = gateway.client.post("/generate", data=body, content_type="application/json", headers=gateway.headers)
    problem = refused(gateway, answer, 400)
    assert problem["errors"][0]["line"] == 2
    assert "line 2, column 11" in problem["detail"]


@pytest.mark.parametrize(("body", "field"), FIELDS, ids=lambda value: str(value)[:50])
@pytest.mark.parametrize("path", ["/generate", "/api/v1/generate"])
def test_a_wrong_field_is_named(gateway: Gateway, body: dict[str, Any], field: str, path: str) -> None:
    answer = gateway.client.post(path, json=body, headers=gateway.headers)
    problem = refused(gateway, answer, 422)
    assert field in {error["field"] for error in problem["errors"]}
    assert problem["error"]["param"] is not None


@pytest.mark.parametrize(("prompt", "field"), PROMPTS, ids=lambda value: repr(value[:40]))
def test_a_wrong_prompt_is_refused(gateway: Gateway, prompt: str, field: str) -> None:
    answer = gateway.client.post("/generate", json={"prompt": prompt}, headers=gateway.headers)
    problem = refused(gateway, answer, 422)
    assert problem["code"].startswith("prompt_")
    assert problem["errors"][0]["field"] == field


def test_a_wrong_negative_prompt_is_named_as_such(gateway: Gateway) -> None:
    body = {"prompt": "x", "negative_prompt": "<caption>"}
    answer = gateway.client.post("/generate", json=body, headers=gateway.headers)
    assert refused(gateway, answer, 422)["errors"][0]["field"] == "negative_prompt"


def test_a_negative_prompt_for_a_model_that_takes_none_is_refused(gateway: Gateway) -> None:
    card = gateway.cards["simulated"]
    without = card.model_copy(update={"model": card.model.model_copy(update={"negative_prompt": False})})
    gateway.cards["simulated"] = without
    body = {"prompt": "x", "model": "simulated"}
    answer = gateway.client.post("/generate", json={**body, "negative_prompt": "fog"}, headers=gateway.headers)
    (error,) = refused(gateway, answer, 422)["errors"]
    assert (error["field"], error["message"]) == ("negative_prompt", "this model takes none")
    assert gateway.client.post("/generate", json=body, headers=gateway.headers).status_code == 202


def test_a_refused_prompt_names_line_and_element(gateway: Gateway) -> None:
    prompt = "<character_1>\n<n></n>\n<gender><b>1girl</b></gender>\n</character_1>"
    answer = gateway.client.post("/generate", json={"prompt": prompt}, headers=gateway.headers)
    (error,) = refused(gateway, answer, 422)["errors"]
    assert error["line"] == 3
    assert error["element"] == "/character_1/gender"


def test_several_wrong_fields_are_named_together(gateway: Gateway) -> None:
    body = {"prompt": "x", "width": 100, "steps": 500, "guidance": 900.0}
    answer = gateway.client.post("/generate", json=body, headers=gateway.headers)
    named = {error["field"] for error in refused(gateway, answer, 422)["errors"]}
    assert named == {"width", "steps", "guidance"}


def test_a_flood_of_unknown_fields_is_named_in_part_and_hides_no_known_one(gateway: Gateway) -> None:
    body = {f"f{n}": n for n in range(15_000)} | {"width": "wide"}
    answer = gateway.client.post("/generate", json=body, headers=gateway.headers)
    named = [error["field"] for error in refused(gateway, answer, 422)["errors"]]
    assert {"prompt", "width", "f0"} <= set(named)
    assert len(named) == 20


def test_only_so_many_fields_are_given_to_the_schema_and_known_ones_always(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, object]] = []
    monkeypatch.setattr(GenerateRequest, "model_validate", given.append)
    schemas.parse(GenerateRequest, {f"f{n}": n for n in range(20_000)} | {"prompt": "x"})
    assert given[0]["prompt"] == "x"
    assert len(given[0]) < 50


def test_an_unknown_model_is_answered_with_the_known_ones(gateway: Gateway) -> None:
    answer = gateway.client.post("/api/v1/generate", json={"prompt": "x", "model": "nope"}, headers=gateway.headers)
    problem = refused(gateway, answer, 422)
    assert problem["code"] == "unknown_model"
    assert "tiny-newbie" in problem["detail"]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": "Basic YTpi"},
        {"X-API-Key": "atl_00000000_" + "x" * 43},
        {"X-API-Key": "\x7f" * 5000},
    ],
)
def test_no_key_or_a_wrong_one_is_401_before_anything_is_read(gateway: Gateway, headers: dict[str, str]) -> None:
    answer = gateway.client.post("/generate", data=b"not even json", headers=headers)
    assert refused(gateway, answer, 401)["code"] == "unauthorized"
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_an_unknown_prefix_and_a_wrong_secret_get_the_same_answer(gateway: Gateway) -> None:
    secret = "A" * 43
    answers = []
    for key in (gateway.key[:13] + secret, "atl_00000000_" + secret):
        problem = refused(gateway, gateway.client.post("/generate", headers={"X-API-Key": key}), 401)
        answers.append({name: value for name, value in problem.items() if name != "request_id"})
    assert answers[0] == answers[1]


def test_a_key_with_a_known_prefix_and_a_wrong_secret_is_refused(gateway: Gateway) -> None:
    forged = gateway.key[:13] + "A" * (len(gateway.key) - 13)
    answer = gateway.client.post("/generate", json={"prompt": "x"}, headers={"X-API-Key": forged})
    refused(gateway, answer, 401)


@pytest.mark.parametrize("content_type", ["text/plain", "application/xml", "multipart/form-data", ""])
def test_another_media_type_is_415(gateway: Gateway, content_type: str) -> None:
    answer = gateway.client.post(
        "/generate", data=b'{"prompt": "x"}', content_type=content_type, headers=gateway.headers
    )
    assert refused(gateway, answer, 415)["code"] == "unsupported_media_type"


def test_a_declared_body_that_is_too_large_is_413_without_reading_it(gateway: Gateway) -> None:
    body = json.dumps({"prompt": "x" * MAX_BODY_BYTES})
    answer = gateway.client.post("/generate", data=body, content_type="application/json", headers=gateway.headers)
    assert refused(gateway, answer, 413)["code"] == "body_too_large"


def test_the_size_of_a_body_is_looked_at_before_the_key(gateway: Gateway) -> None:
    body = json.dumps({"prompt": "x" * MAX_BODY_BYTES})
    answer = gateway.client.post("/generate", data=body, content_type="application/json")
    assert refused(gateway, answer, 413)["code"] == "body_too_large"


class BrokenChunks(io.RawIOBase):
    """What gunicorn gives for a chunked body that is none."""

    def readable(self) -> bool:
        return True

    def readinto(self, _buffer: object) -> int:
        message = "invalid chunk size"
        raise OSError(message)


@pytest.mark.parametrize(
    ("stream", "status", "code"),
    [
        (io.BytesIO(b" " * (MAX_BODY_BYTES + 1)), 413, "body_too_large"),
        (io.BytesIO(b'{"prompt": 5}'.ljust(MAX_BODY_BYTES)), 422, "invalid_parameters"),
        (BrokenChunks(), 400, "unreadable_body"),
    ],
)
def test_a_body_without_a_declared_length(gateway: Gateway, stream: io.IOBase, status: int, code: str) -> None:
    # Flask's client would declare the length of a stream that it is given as such.
    environ = {"wsgi.input": stream, "wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"}
    answer = gateway.client.post(
        "/generate", content_type="application/json", headers=gateway.headers, environ_overrides=environ
    )
    assert refused(gateway, answer, status)["code"] == code


def test_unknown_paths_and_methods_are_problems_too(gateway: Gateway) -> None:
    assert refused(gateway, gateway.client.get("/nowhere"), 404)["code"] == "not_found"
    answer = gateway.client.get("/generate")
    assert refused(gateway, answer, 405)["code"] == "method_not_allowed"
    assert "POST" in answer.headers["Allow"]


def test_a_crash_is_a_500_that_tells_nothing(gateway: Gateway) -> None:
    gateway.publisher.failure = errors.AtelierError("the secret inside")
    answer = gateway.client.post("/generate", json={"prompt": "x"}, headers=gateway.headers)
    assert answer.status_code == 500
    assert answer.get_json()["code"] == "internal_error"
    assert "secret" not in answer.text


def descendants(kind: type[errors.AtelierError]) -> set[type[errors.AtelierError]]:
    return {kind}.union(*(descendants(child) for child in kind.__subclasses__()))


def test_every_error_that_can_reach_a_client_has_a_refusal() -> None:
    kinds = descendants(errors.BrokerError) | descendants(errors.RequestError) - {errors.RequestError}
    own = {kind for kind in kinds if kind.__module__.startswith(("services.gateway.", "shared."))}
    table = {**COMMON_REFUSALS, **REFUSALS}
    assert {kind.__name__ for kind in own if not any(base in table for base in kind.__mro__)} == set()
    assert {"SubmitUnknownError", "PromptMarkupError", "UnauthorizedError"} <= {kind.__name__ for kind in own}


def test_every_refusal_is_a_4xx_or_a_503_that_says_when_to_try_again() -> None:
    for kind, refusal in REFUSALS.items():
        unavailable = QueueFullError | IdempotencyUnavailableError | ImagesBusyError
        if issubclass(kind, errors.BrokerError | errors.StorageError | unavailable):
            assert (refusal.status, bool(refusal.retry_after_seconds)) == (503, True), kind
        else:
            assert 400 <= refusal.status < 500, kind
