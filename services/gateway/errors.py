"""Why the gateway refuses a request, beyond what every HTTP service refuses. Codes are stable."""

from __future__ import annotations

from shared.domain.errors import BrokerError, RequestError
from shared.http.errors import FieldError, InvalidRequestError


class MalformedJsonError(InvalidRequestError):
    """The body is not a JSON object in UTF-8."""

    code = "malformed_json"


class UnsupportedMediaTypeError(RequestError):
    """The body is declared as something other than JSON."""

    code = "unsupported_media_type"


class BodyTooLargeError(RequestError):
    """The body has more bytes than any request needs."""

    code = "body_too_large"


class InvalidParametersError(InvalidRequestError):
    """A field is unknown, of the wrong type, or outside what the model allows."""

    code = "invalid_parameters"

    def __init__(self, *errors: FieldError) -> None:
        super().__init__("; ".join(f"{error.field}: {error.message}" for error in errors[:3]), *errors)


class UnknownModelError(InvalidRequestError):
    """There is no such model here."""

    code = "unknown_model"


class SubmitUnknownError(BrokerError):
    """The broker did not confirm in time: the task may run, under the id that the answer names."""

    code = "submit_unknown"

    def __init__(self, task_id: str) -> None:
        super().__init__(f"the broker did not confirm task {task_id} in time; it may run nevertheless")
        self.task_id = task_id
