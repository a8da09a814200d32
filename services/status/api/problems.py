"""What each error of this service is answered with; the one place where errors meet HTTP statuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from services.status.errors import (
    ArtifactExpiredError,
    ArtifactNotFoundError,
    StatusLaggingError,
    StreamsFullError,
    TaskNotFoundError,
    TooManyStreamsError,
    ViewStoreError,
    WebhookNotFoundError,
)
from shared.domain.errors import StorageError
from shared.http.problems import ErrorTable, Problem, Refusal

if TYPE_CHECKING:
    from flask import Response

REFUSALS: Final[ErrorTable] = {
    TaskNotFoundError: Refusal(status=404, title="There is no such task"),
    WebhookNotFoundError: Refusal(status=404, title="There is no such callback"),
    ArtifactNotFoundError: Refusal(status=404, title="There is no such artifact"),
    ArtifactExpiredError: Refusal(status=410, title="The artifact is no longer kept"),
    TooManyStreamsError: Refusal(status=429, title="Too many open streams", retry_after_seconds=10),
    StreamsFullError: Refusal(status=503, title="No more streams now", retry_after_seconds=10),
    StatusLaggingError: Refusal(status=503, title="The task is not known yet", retry_after_seconds=2),
    ViewStoreError: Refusal(
        status=503,
        title="Task states cannot be read now",
        detail="The database of task states does not answer. Tasks are safe; ask again.",
        retry_after_seconds=5,
    ),
    StorageError: Refusal(
        status=503,
        title="Results cannot be read now",
        detail="The store of results does not answer. Results are safe; ask again.",
        retry_after_seconds=5,
    ),
}


def range_problem(size: int) -> Response:
    """The answer to a Range of which nothing lies within the representation."""
    return Problem(
        status=416,
        code="range_not_satisfiable",
        title="Nothing lies in this range",
        detail=f"the artifact has {size} bytes",
        headers={"Content-Range": f"bytes */{size}", "Accept-Ranges": "bytes"},
    ).response()
