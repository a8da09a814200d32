from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from flask import Flask

from shared.domain.errors import BrokerError, BrokerUnavailableError, ConfigurationError, RequestError
from shared.domain.task import TaskState
from shared.http.errors import FieldError, InvalidRequestError, TaskStateError
from shared.http.problems import Refusal, install_problems
from shared.http.request_context import install_request_context, traceparent

if TYPE_CHECKING:
    from werkzeug.test import TestResponse

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class PromptError(InvalidRequestError):
    code = "invalid_prompt"


def answer_to(error: Exception) -> TestResponse:
    app = Flask(__name__)
    install_request_context(app)
    table = {
        PromptError: Refusal(status=422, title="The prompt is not valid"),
        BrokerError: Refusal(status=503, title="Busy", detail="Try again.", retry_after_seconds=7),
    }
    install_problems(app, table)

    @app.get("/it")
    def it() -> str:
        raise error

    return app.test_client().get("/it", headers={"X-Request-ID": "request-0001"})


def body_of(response: TestResponse) -> dict[str, Any]:
    body: dict[str, Any] = response.get_json(force=True)
    return body


def test_a_problem_has_every_part_that_clients_read() -> None:
    error = PromptError("the prompt is not XML", FieldError(message="unclosed tag", line=3, element="character_1"))
    response = answer_to(error)
    assert (response.status_code, response.content_type) == (422, "application/problem+json")
    assert body_of(response) == {
        "type": "urn:atelier:problem:invalid_prompt",
        "title": "The prompt is not valid",
        "status": 422,
        "detail": "the prompt is not XML",
        "instance": "/it",
        "code": "invalid_prompt",
        "request_id": "request-0001",
        "errors": [{"message": "unclosed tag", "line": 3, "element": "character_1"}],
        "error": {
            "message": "the prompt is not XML",
            "type": "invalid_request_error",
            "param": None,
            "code": "invalid_prompt",
        },
    }


def test_the_closest_base_class_in_the_table_decides() -> None:
    response = answer_to(BrokerUnavailableError("amqp://secret@host is gone"))
    assert (response.status_code, response.headers["Retry-After"]) == (503, "7")
    assert body_of(response)["code"] == "broker_unavailable"
    assert body_of(response)["detail"] == "Try again."
    assert body_of(response)["error"]["type"] == "server_error"


@pytest.mark.parametrize("error", [RuntimeError("a secret"), ConfigurationError("a secret"), RequestError("a secret")])
def test_what_nobody_foresaw_is_an_internal_error_that_tells_nothing(error: Exception) -> None:
    response = answer_to(error)
    assert response.status_code == 500
    assert body_of(response)["code"] == "internal_error"
    assert "secret" not in response.text


@pytest.mark.parametrize(("given", "kept"), [(TRACEPARENT, True), ("00-0-0-00", False), ("", False)])
def test_a_well_formed_trace_is_kept_and_another_one_replaced(given: str, *, kept: bool) -> None:
    app = Flask(__name__)
    install_request_context(app)
    app.add_url_rule("/", view_func=traceparent)
    found = app.test_client().get("/", headers={"traceparent": given}).text
    assert (found == given) is kept
    assert len(found) == len(TRACEPARENT)


@pytest.mark.parametrize(("state", "told"), [(TaskState.SUCCEEDED, {"state": "succeeded"}), (None, {})])
def test_a_conflict_with_a_tasks_state_names_it_where_it_is_known(
    state: TaskState | None, told: dict[str, str]
) -> None:
    response = answer_to(TaskStateError("not now", state))
    assert response.status_code == 409
    assert {name: value for name, value in body_of(response).items() if name == "state"} == told
