"""Why the gateway refuses a request, beyond what every HTTP service refuses. Codes are stable."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.domain.errors import BrokerError, RequestError
from shared.http.errors import FieldError, InvalidRequestError, TaskStateError

if TYPE_CHECKING:
    from shared.domain.task import TaskState


class MalformedJsonError(InvalidRequestError):
    """The body is not a JSON object in UTF-8."""

    code = "malformed_json"


class UnreadableBodyError(InvalidRequestError):
    """The body is not framed as HTTP has it, or ended before its end."""

    code = "unreadable_body"


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


class ExceedsMemoryError(InvalidRequestError):
    """No known worker has the memory for such a picture, at any of its memory tiers. Sizes are (width, height)."""

    code = "exceeds_memory"

    def __init__(self, asked: tuple[int, int], largest: tuple[int, int] | None) -> None:
        message = "{}x{} needs more memory than any worker has; ".format(*asked)
        if largest is None:
            message += "no size of this aspect ratio fits, with so many pictures and frames"
        else:
            message += "the largest of this aspect ratio, all else the same, is {}x{}".format(*largest)
        super().__init__(message, FieldError(message=message, field="width"))
        self.largest = largest


class ExceedsTimeError(InvalidRequestError):
    """The work would take longer than any task may. Times are seconds."""

    code = "exceeds_time"

    def __init__(self, predicted: float, longest: float) -> None:
        message = f"this would take about {predicted:.0f} s; a task may take {longest:.0f} s"
        super().__init__(message, FieldError(message=message, field="steps"))


class ModelNotAllowedError(RequestError):
    """The tenant's plan does not include the model."""

    code = "model_not_allowed"


class ExceedsPlanError(InvalidRequestError):
    """The picture is larger than the tenant's plan allows."""

    code = "exceeds_plan"


class CallbackRefusedError(InvalidRequestError):
    """The client cannot be called back there, or for that."""

    code = "callback_refused"

    def __init__(self, message: str, *, field: str = "callback_url") -> None:
        super().__init__(f"{field}: {message}", FieldError(message=message, field=field))


class UnknownModelError(InvalidRequestError):
    """There is no such model here."""

    code = "unknown_model"


class ModelUnavailableError(BrokerError):
    """The model is known and has no work queue: nothing was accepted."""

    code = "model_unavailable"


class SubmitVoidedError(BrokerError):
    """The broker did not confirm in time, and the task was cancelled: it will not run. Try again."""

    code = "publish_voided"

    def __init__(self) -> None:
        super().__init__("the broker did not confirm the task in time; it was cancelled and will not run")


class SubmitUnknownError(BrokerError):
    """The broker did not confirm in time: the task may run, under the id that the answer names."""

    code = "publish_unknown"

    def __init__(self, task_id: str) -> None:
        super().__init__(f"the broker did not confirm task {task_id} in time; it may run nevertheless")
        self.task_id = task_id


class TaskNotFoundError(RequestError):
    """There is no such task of this tenant's, or none that has ended."""

    code = "task_not_found"


class TaskNotEndedError(TaskStateError):
    """The task has not ended, so there is nothing to try again."""

    code = "task_not_ended"

    def __init__(self) -> None:
        super().__init__("the task has not ended; cancel it first, or wait for its end")


class TaskSucceededError(TaskStateError):
    """The task has what was asked for."""

    code = "task_succeeded"

    def __init__(self, state: TaskState) -> None:
        super().__init__("the task has succeeded; submit it anew for another picture", state)


class RetriedOftenError(RequestError):
    """The task was retried, its retry was, and so on; only the last of them is worth another try."""

    code = "retried_often"

    def __init__(self, latest: str) -> None:
        super().__init__(f"this task was retried many times; retry the latest of them, {latest}")
