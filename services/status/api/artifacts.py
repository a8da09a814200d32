"""A task's files: streamed from the bucket, or by redirect where clients can reach the store themselves."""

from __future__ import annotations

import mimetypes
from typing import TYPE_CHECKING, Final

from flask import Blueprint, Response, request

from services.status.api.tasks import PRESIGNED_SECONDS
from services.status.errors import ArtifactExpiredError, ArtifactNotFoundError
from shared.domain.errors import ObjectNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.status.api.access import TaskAccess
    from services.status.view import TaskView
    from shared.contracts.outcome import Artifact
    from shared.storage.ports import ObjectStore

# An artifact never changes; a browser may keep it, a shared cache may not.
_CACHE_CONTROL: Final = "private, max-age=31536000, immutable"


def artifacts_blueprint(access: TaskAccess, objects: ObjectStore) -> Blueprint:
    """``/api/v1/tasks/<id>/artifacts/<n>``, n from 0."""
    blueprint = Blueprint("artifacts", __name__)

    @blueprint.get("/api/v1/tasks/<task_id>/artifacts/<int:index>")
    def artifact(task_id: str, index: int) -> Response:
        found = _artifact_of(access.find(access.reader(), task_id), index)
        url = objects.presign(found.key, seconds=PRESIGNED_SECONDS)
        if url is not None:
            _must_exist(objects, found)
            answer = Response(status=302, headers={"Location": url})
            answer.headers["Cache-Control"] = "no-store"
            return answer
        if request.if_none_match.contains_weak(found.sha256):
            return _described(Response(status=304), found)
        if request.method == "HEAD":
            _must_exist(objects, found)
            return _described(Response(), found, filename=_filename(task_id, index, found))
        return _described(Response(_open(objects, found)), found, filename=_filename(task_id, index, found))

    return blueprint


def _artifact_of(view: TaskView, index: int) -> Artifact:
    if index >= len(view.artifacts):
        message = f"the task is {view.state} and has {len(view.artifacts)} artifacts"
        raise ArtifactNotFoundError(message)
    return view.artifacts[index]


def _open(objects: ObjectStore, artifact: Artifact) -> Iterator[bytes]:
    try:
        return objects.open(artifact.key).chunks
    except ObjectNotFoundError as exc:
        raise ArtifactExpiredError from exc


def _must_exist(objects: ObjectStore, artifact: Artifact) -> None:
    if not objects.exists(artifact.key):
        raise ArtifactExpiredError


def _described(response: Response, artifact: Artifact, *, filename: str | None = None) -> Response:
    response.set_etag(artifact.sha256)
    response.headers["Cache-Control"] = _CACHE_CONTROL
    if filename is not None:
        response.content_type = artifact.media_type
        response.content_length = artifact.bytes
        response.headers["Content-Disposition"] = f'inline; filename="{filename}"'
    return response


def _filename(task_id: str, index: int, artifact: Artifact) -> str:
    return f"{task_id}-{index}{mimetypes.guess_extension(artifact.media_type) or '.bin'}"
