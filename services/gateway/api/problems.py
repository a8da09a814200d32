"""What each error of this service is answered with; the one place where errors meet HTTP statuses."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import orjson

from services.gateway.admission.errors import (
    AdmissionError,
    QueueFullError,
    QuotaExceededError,
    RateLimitedError,
    TooManyTasksError,
)
from services.gateway.api.limits import rate_limit_fields
from services.gateway.errors import (
    BodyTooLargeError,
    CallbackRefusedError,
    ExceedsMemoryError,
    ExceedsPlanError,
    ExceedsTimeError,
    InvalidParametersError,
    MalformedJsonError,
    ModelNotAllowedError,
    ModelUnavailableError,
    RetriedOftenError,
    SubmitUnknownError,
    SubmitVoidedError,
    TaskNotFoundError,
    UnknownModelError,
    UnreadableBodyError,
    UnsupportedMediaTypeError,
)
from services.gateway.idempotency.errors import (
    IdempotencyInFlightError,
    IdempotencyKeyReusedError,
    IdempotencyUnavailableError,
)
from services.gateway.images.errors import ImageError, ImageNeedsKeyError, ImagesBusyError, TooManyImagesError
from services.gateway.prompt.errors import PromptError
from shared.domain.errors import BrokerError, StorageError
from shared.http.problems import ErrorTable, Refusal, install_problems, problem_of
from shared.logging import get_logger

if TYPE_CHECKING:
    from flask import Flask, Response

log = get_logger(__name__)

REFUSALS: Final[ErrorTable] = {
    MalformedJsonError: Refusal(status=400, title="The body is not a JSON object"),
    UnreadableBodyError: Refusal(status=400, title="The body could not be read"),
    BodyTooLargeError: Refusal(status=413, title="The body is too large"),
    UnsupportedMediaTypeError: Refusal(status=415, title="The body is of the wrong type"),
    InvalidParametersError: Refusal(status=422, title="A parameter is not valid"),
    CallbackRefusedError: Refusal(status=422, title="The callback is not possible"),
    ExceedsMemoryError: Refusal(status=422, title="The picture is too large for every worker"),
    ExceedsPlanError: Refusal(status=422, title="The plan does not allow so much"),
    ModelNotAllowedError: Refusal(status=403, title="The plan does not include the model"),
    # When to try again is in the error itself.
    AdmissionError: Refusal(status=429, title="There is no place now", retry_after_seconds=5),
    RateLimitedError: Refusal(status=429, title="Too many requests"),
    QuotaExceededError: Refusal(status=429, title="The day's budget is used up"),
    TooManyTasksError: Refusal(status=429, title="Too many tasks at once"),
    QueueFullError: Refusal(status=503, title="The queue is full", retry_after_seconds=5),
    ExceedsTimeError: Refusal(status=422, title="The work is too long"),
    IdempotencyInFlightError: Refusal(status=409, title="The first request is being answered", retry_after_seconds=5),
    IdempotencyKeyReusedError: Refusal(
        status=422,
        title="The Idempotency-Key belongs to another request",
        detail="The key was sent before with another body or to another path. Send a new key for a new request.",
    ),
    IdempotencyUnavailableError: Refusal(
        status=503, title="The Idempotency-Key cannot be honoured now", retry_after_seconds=5
    ),
    ImageError: Refusal(status=422, title="The image is not usable"),
    ImageNeedsKeyError: Refusal(status=403, title="Images need an API key"),
    TooManyImagesError: Refusal(status=429, title="Too many images are kept", retry_after_seconds=3600),
    ImagesBusyError: Refusal(status=503, title="No image can be taken now", retry_after_seconds=5),
    UnknownModelError: Refusal(status=422, title="There is no such model"),
    PromptError: Refusal(status=422, title="The prompt is not valid"),
    ModelUnavailableError: Refusal(
        status=503,
        title="The model cannot be reached now",
        detail="The model has no queue. Nothing was accepted; try again later.",
        retry_after_seconds=30,
    ),
    SubmitUnknownError: Refusal(status=503, title="The task may or may not have been accepted", retry_after_seconds=5),
    SubmitVoidedError: Refusal(
        status=503,
        title="No task can be accepted now",
        detail="The message broker did not confirm the task in time. It was cancelled and will not run; try again.",
        retry_after_seconds=5,
    ),
    TaskNotFoundError: Refusal(status=404, title="There is no such task"),
    RetriedOftenError: Refusal(status=409, title="The task was retried before"),
    StorageError: Refusal(
        status=503,
        title="The store cannot be used now",
        detail="The store of results and images does not answer. Nothing was accepted; try again.",
        retry_after_seconds=5,
    ),
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

    def on_not_admitted(error: AdmissionError) -> Response:
        problem = problem_of(error, REFUSALS[type(error)])
        log.info("request_refused", error_code=problem.code, error_message=error.message, status=problem.status)
        response = problem.response()
        response.headers.update(rate_limit_fields(error.windows))
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_seconds)))
        return response

    def on_in_flight(error: IdempotencyInFlightError) -> Response:
        problem = problem_of(error, REFUSALS[IdempotencyInFlightError])
        log.info("request_refused", error_code=problem.code, error_message=error.message, status=problem.status)
        response = problem.response()
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_seconds)))
        return response

    install_problems(app, REFUSALS)
    app.register_error_handler(IdempotencyInFlightError, on_in_flight)
    app.register_error_handler(AdmissionError, on_not_admitted)
    app.register_error_handler(SubmitUnknownError, on_submit_unknown)
