"""What each error of this service is answered with; the one place where errors meet HTTP statuses."""

from __future__ import annotations

from typing import Final

from services.gateway.errors import (
    BodyTooLargeError,
    InvalidParametersError,
    MalformedJsonError,
    SubmitUnknownError,
    UnknownModelError,
    UnsupportedMediaTypeError,
)
from services.gateway.prompt.errors import PromptError
from shared.domain.errors import BrokerError, UnroutableError
from shared.http.problems import ErrorTable, Refusal

REFUSALS: Final[ErrorTable] = {
    MalformedJsonError: Refusal(status=400, title="The body is not a JSON object"),
    BodyTooLargeError: Refusal(status=413, title="The body is too large"),
    UnsupportedMediaTypeError: Refusal(status=415, title="The body must be JSON"),
    InvalidParametersError: Refusal(status=422, title="A parameter is not valid"),
    UnknownModelError: Refusal(status=422, title="There is no such model"),
    PromptError: Refusal(status=422, title="The prompt is not valid"),
    UnroutableError: Refusal(
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
