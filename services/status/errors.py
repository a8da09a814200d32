"""Errors of the status service, see shared.domain.errors for the tree."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.domain.errors import AtelierError, RequestError
from shared.http.errors import TaskStateError

if TYPE_CHECKING:
    from shared.domain.task import TaskState


class ViewStoreError(AtelierError):
    """The database of task views could not be used."""

    code = "view_store_error"
    retryable = True


class UnstorableError(ViewStoreError):
    """The database works, and has no place for a value such as this."""

    code = "unstorable"
    retryable = False


class TaskNotFoundError(RequestError):
    """There is no such task."""

    code = "task_not_found"


class TaskEndedError(TaskStateError):
    """The task has ended, and not by a cancel."""

    code = "task_ended"

    def __init__(self, state: TaskState) -> None:
        super().__init__(f"the task has {state} and cannot be cancelled any more", state)


class WebhookNotFoundError(RequestError):
    """There is no such callback."""

    code = "webhook_not_found"


class ArtifactNotFoundError(RequestError):
    """The task has no such artifact."""

    code = "artifact_not_found"


class ArtifactExpiredError(RequestError):
    """The artifact is no longer kept: its plan's time is over."""

    code = "artifact_expired"


class TooManyStreamsError(RequestError):
    """The tenant has as many open streams as it may; close one, or list and poll."""

    code = "too_many_streams"
    retryable = True


class StreamsFullError(AtelierError):
    """The service has as many open streams as it can bear."""

    code = "streams_full"
    retryable = True


class StatusLaggingError(AtelierError):
    """The task may exist, but the news of it has not arrived here yet."""

    code = "status_lagging"
    retryable = True
