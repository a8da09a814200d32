"""What each error of this service is answered with; the one place where errors meet HTTP statuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import orjson

from services.gateway.errors import (
    BodyTooLargeError,
    CallbackUnsupportedError,
    ExceedsMemoryError,
    ExceedsTimeError,
    InvalidParametersError,
    MalformedJsonError,
    ModelUnavailableError,
    SubmitUnknownError,
    UnknownModelError,
    UnreadableBodyError,
    UnsupportedMediaTypeError,
)
from services.gateway.prompt.errors import PromptError
from shared.domain.errors import BrokerError
from shared.http.problems import ErrorTable, Refusal, install_problems, problem_of
from shared.logging import get_logger

if TYPE_CHECKING:
    from flask import Flask, Response

log = get_logger(__name__)

REFUSALS: Final[ErrorTable] = {
    MalformedJsonError: Refusal(status=400, title="The body is not a JSON object"),
    UnreadableBodyError: Refusal(status=400, title="The body could not be read"),
    BodyTooLargeError: Refusal(status=413, title="The body is too large"),
    UnsupportedMediaTypeError: Refusal(status=415, title="The body must be JSON"),
    InvalidParametersError: Refusal(status=422, title="A parameter is not valid"),
    CallbackUnsupportedError: Refusal(status=422, title="Callbacks are not supported"),
    ExceedsMemoryError: Refusal(status=422, title="The picture is too large for every worker"),
    ExceedsTimeError: Refusal(status=422, title="The work is too long"),
    UnknownModelError: Refusal(status=422, title="There is no such model"),
    PromptError: Refusal(status=422, title="The prompt is not valid"),
    ModelUnavailableError: Refusal(
        status=503,
        title="The model cannot be reached now",
        detail="The model has no queue. Nothing was accepted; try again later.",
        retry_after_seconds=30,
    ),
    SubmitUnknownError: Refusal(status=503, title="The task may or may not have been accepted", retry_after_seconds=5),
    BrokerError: Refusal(
        status=503,
        title="No task can be accepted now",
        detail="The message broker cannot be used. Nothing was accepted; try again.",
        retry_after_seconds=5,
    ),
}


def install_refusals(app: Flask) -> None:
    """Answer every error of this service as a problem."""

    def on_submit_unknown(error: SubmitUnknownError) -> Response:
        problem = problem_of(error, REFUSALS[SubmitUnknownError])
        log.warning("request_refused", error_code=problem.code, error_message=error.message, status=problem.status)
        response = problem.response()
        # A member of its own: without the id a client could neither ask for the task nor know it when it appears.
        response.set_data(orjson.dumps({**orjson.loads(response.get_data()), "task_id": error.task_id}))
        response.headers["X-Task-Id"] = error.task_id
        return response

    install_problems(app, REFUSALS)
    app.register_error_handler(SubmitUnknownError, on_submit_unknown)
