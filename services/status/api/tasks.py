"""The views of one task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from flask import Blueprint, Response, request

from services.status.api.answers import artifact_path, short_answer, task_answer
from services.status.streams.registry import POLL
from shared.http.errors import FieldError, InvalidRequestError

if TYPE_CHECKING:
    from pydantic import BaseModel

    from services.status.api.access import TaskAccess
    from services.status.streams.registry import StreamRegistry
    from services.status.view import TaskView
    from shared.storage.ports import ObjectStore

MAX_WAIT_SECONDS: Final = 60.0
PRESIGNED_SECONDS: Final = 3600


def tasks_blueprint(access: TaskAccess, objects: ObjectStore, streams: StreamRegistry) -> Blueprint:
    """``/status/<id>`` and ``/api/v1/tasks/<id>``; with ``?wait=<seconds>`` both answer at the task's end."""
    blueprint = Blueprint("tasks", __name__)

    def found(task_id: str) -> TaskView:
        reader, seconds = access.reader(), _wait_seconds()
        if not seconds:
            return access.find(reader, task_id)
        slot = streams.take(POLL, reader.tenant_id)
        try:
            return access.find(reader, task_id, wait_seconds=seconds)
        finally:
            slot.give_back()

    @blueprint.get("/status/<task_id>")
    def status(task_id: str) -> Response:
        view = found(task_id)
        return _json(short_answer(view, urls_of(objects, view), access.standing(view)))

    @blueprint.get("/api/v1/tasks/<task_id>")
    def task(task_id: str) -> Response:
        view = found(task_id)
        return _json(task_answer(view, urls_of(objects, view), access.standing(view)))

    return blueprint


def urls_of(objects: ObjectStore, view: TaskView) -> list[str]:
    """Where each artifact is: at the store itself where clients can reach it."""
    return [
        objects.presign(artifact.key, seconds=PRESIGNED_SECONDS) or artifact_path(view.task_id, index)
        for index, artifact in enumerate(view.artifacts)
    ]


def _wait_seconds() -> float:
    text = request.args.get("wait")
    if text is None:
        return 0.0
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= MAX_WAIT_SECONDS:
        message = f"wait must be a number of seconds from 0 to {MAX_WAIT_SECONDS:g}"
        raise InvalidRequestError(message, FieldError(field="wait", message=message))
    return seconds


def _json(answer: BaseModel) -> Response:
    response = Response(answer.model_dump_json(), content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    return response
