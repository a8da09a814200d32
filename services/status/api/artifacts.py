"""A task's files: streamed from the bucket, or by redirect where clients can reach the store themselves."""

from __future__ import annotations

import mimetypes
from typing import TYPE_CHECKING, Final

from flask import Blueprint, Response, request

from services.status.api.problems import range_problem
from services.status.api.tasks import PRESIGNED_SECONDS
from services.status.errors import ArtifactExpiredError, ArtifactNotFoundError
from shared.domain.errors import ObjectNotFoundError
from shared.http.errors import FieldError, InvalidRequestError
from shared.storage.ports import Span

if TYPE_CHECKING:
    from collections.abc import Iterator

    from services.status.api.access import TaskAccess
    from services.status.view import TaskView
    from shared.contracts.outcome import Artifact
    from shared.storage.ports import ObjectStore

# An artifact never changes; a browser may keep it, a shared cache may not.
_CACHE_CONTROL: Final = "private, max-age=31536000, immutable"


def artifacts_blueprint(access: TaskAccess, objects: ObjectStore) -> Blueprint:
    """``/api/v1/tasks/<id>/artifacts/<n>``, n from 0; ``?download=1`` has browsers save it."""
    blueprint = Blueprint("artifacts", __name__)

    @blueprint.get("/api/v1/tasks/<task_id>/artifacts/<int:index>")
    def artifact(task_id: str, index: int) -> Response:
        download = _download()
        found = _artifact_of(access.find(access.reader(), task_id), index)
        name = _filename(task_id, index, found)
        url = objects.presign(found.key, seconds=PRESIGNED_SECONDS, save_as=name if download else None)
        if url is not None:
            _must_exist(objects, found)
            answer = Response(status=302, headers={"Location": url})
            answer.headers["Cache-Control"] = "no-store"
            return answer
        if request.if_none_match.contains_weak(found.sha256):
            return _kept(Response(status=304), found)
        response = _content(objects, found)
        response.headers["Content-Disposition"] = f'{"attachment" if download else "inline"}; filename="{name}"'
        return response

    return blueprint


def _content(objects: ObjectStore, artifact: Artifact) -> Response:
    """The whole, or the one range that is asked for: several at once and what is no range count as none."""
    if request.method == "HEAD":
        _must_exist(objects, artifact)
        return _described(Response(), artifact, artifact.bytes)
    asked = _asked_range(artifact)
    if asked is None:
        return _described(Response(_open(objects, artifact, None)), artifact, artifact.bytes)
    begin, end = asked
    first = begin if begin >= 0 else max(0, artifact.bytes + begin)  # below 0 it counts from the end
    if first >= artifact.bytes:
        return range_problem(artifact.bytes)
    span = Span(first, min(end or artifact.bytes, artifact.bytes) - 1)
    response = _described(Response(_open(objects, artifact, span), status=206), artifact, span.size)
    response.headers["Content-Range"] = f"bytes {span.first}-{span.last}/{artifact.bytes}"
    return response


def _asked_range(artifact: Artifact) -> tuple[int, int | None] | None:
    asked = request.range
    if asked is None or asked.units != "bytes" or len(asked.ranges) != 1:
        return None
    # A weak tag, or a date, never proves that the client has a part of this very content.
    if request.headers.get("If-Range", f'"{artifact.sha256}"') != f'"{artifact.sha256}"':
        return None
    begin, end = asked.ranges[0]
    return (begin or 0, end)


def _download() -> bool:
    text = request.args.get("download", "0")
    if text not in {"0", "1"}:
        message = "download must be 0 or 1"
        raise InvalidRequestError(message, FieldError(field="download", message=message))
    return text == "1"


def _artifact_of(view: TaskView, index: int) -> Artifact:
    if index >= len(view.artifacts):
        message = f"the task is {view.state} and has {len(view.artifacts)} artifacts"
        raise ArtifactNotFoundError(message)
    return view.artifacts[index]


def _open(objects: ObjectStore, artifact: Artifact, span: Span | None) -> Iterator[bytes]:
    try:
        return objects.open(artifact.key, span).chunks
    except ObjectNotFoundError as exc:
        raise ArtifactExpiredError from exc


def _must_exist(objects: ObjectStore, artifact: Artifact) -> None:
    if not objects.exists(artifact.key):
        raise ArtifactExpiredError


def _described(response: Response, artifact: Artifact, size: int) -> Response:
    response.content_type = artifact.media_type
    response.content_length = size
    response.headers["Accept-Ranges"] = "bytes"
    return _kept(response, artifact)


def _kept(response: Response, artifact: Artifact) -> Response:
    response.set_etag(artifact.sha256)
    response.headers["Cache-Control"] = _CACHE_CONTROL
    return response


def _filename(task_id: str, index: int, artifact: Artifact) -> str:
    return f"{task_id}-{index}{mimetypes.guess_extension(artifact.media_type) or '.bin'}"
