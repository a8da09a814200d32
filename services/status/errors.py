"""Errors of the status service, see shared.domain.errors for the tree."""

from __future__ import annotations

from shared.domain.errors import AtelierError, RequestError


class ViewStoreError(AtelierError):
    """The database of task views could not be used."""

    code = "view_store_error"
    retryable = True


class TaskNotFoundError(RequestError):
    """There is no such task."""

    code = "task_not_found"


class ArtifactNotFoundError(RequestError):
    """The task has no such artifact."""

    code = "artifact_not_found"


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
