"""Errors of the status service, see shared.domain.errors for the tree."""

from __future__ import annotations

from shared.domain.errors import AtelierError, RequestError


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


class ArtifactNotFoundError(RequestError):
    """The task has no such artifact."""

    code = "artifact_not_found"


class StatusLaggingError(AtelierError):
    """The task may exist, but the news of it has not arrived here yet."""

    code = "status_lagging"
    retryable = True
