"""A client takes its task back."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING

from flask import Blueprint, Response

from services.status.api.answers import task_answer

if TYPE_CHECKING:
    from services.status.api.access import TaskAccess
    from services.status.cancelling import Cancelling


def cancel_blueprint(access: TaskAccess, cancelling: Cancelling) -> Blueprint:
    """``DELETE /api/v1/tasks/<id>``: 202 with the whole answer, as often as it is asked; 409 for another end."""
    blueprint = Blueprint("cancel", __name__)

    @blueprint.delete("/api/v1/tasks/<task_id>")
    def cancel(task_id: str) -> Response:
        view = cancelling.cancel(access.find(access.reader(), task_id))
        answer = task_answer(view, (), None)
        response = Response(answer.model_dump_json(), HTTPStatus.ACCEPTED, content_type="application/json")
        response.headers["Cache-Control"] = "no-store"
        return response

    return blueprint
