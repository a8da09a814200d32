"""Refusals that every HTTP service has. What status each is answered with stands in the service's table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.domain.errors import RequestError

if TYPE_CHECKING:
    from shared.domain.task import TaskState


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldError:
    """What is wrong with one part of a request: a field (``params.width``), or a line and element of its prompt."""

    message: str
    field: str | None = None
    line: int | None = None
    element: str | None = None


class InvalidRequestError(RequestError):
    """The request cannot be understood, or asks for what is not allowed. ``errors`` names each part at fault."""

    code = "invalid_request"

    def __init__(self, message: str, *errors: FieldError) -> None:
        super().__init__(message)
        self.errors = errors


class TaskStateError(RequestError):
    """What was asked for does not go with the task's state, which is named where it is known."""

    code = "task_state"

    def __init__(self, message: str, state: TaskState | None = None) -> None:
        super().__init__(message)
        self.state = state


class UnauthorizedError(RequestError):
    """The request carries no API key, or one that is not known."""

    code = "unauthorized"
