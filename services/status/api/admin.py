"""What the service's own processes and operators ask. No tenant's key opens it, and Nginx does not lead to it."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final

from flask import Blueprint, Response, request

from services.status.store.ports import TaskFilter
from shared.contracts.open_tasks import OpenTask, OpenTaskPage
from shared.domain.task import TaskState
from shared.http.errors import FieldError, InvalidRequestError, UnauthorizedError
from shared.ids import is_task_id

if TYPE_CHECKING:
    from services.status.store.ports import TaskViewStore
    from services.status.view import TaskView
    from shared.http.auth import Gatekeeper

# Views that one answer looks at: SQLite stops the process while it reads them, for some ten milliseconds.
PAGE_VIEWS: Final = 500
_FROM_THE_NEWEST: Final = ""
# By state and not by age: the id of a retry is as old as the end of what it retries.
_OPEN: Final = TaskFilter(states=frozenset(state for state in TaskState if not state.is_final))


def admin_blueprint(views: TaskViewStore, gatekeeper: Gatekeeper, operator_key: str) -> Blueprint:
    """``GET /api/v1/admin/tasks?state=open&cursor=<task id>``."""
    blueprint = Blueprint("admin", __name__)
    expected = f"Bearer {operator_key}".encode()

    @blueprint.get("/api/v1/admin/tasks")
    def tasks() -> Response:
        if not hmac.compare_digest(request.headers.get("Authorization", "").encode(), expected):
            gatekeeper.count_failure()
            message = "the operator key is not right"
            raise UnauthorizedError(message)
        if request.args.get("state") != "open":
            raise _invalid(state="must be open")
        cursor = request.args.get("cursor", _FROM_THE_NEWEST)
        if cursor and not is_task_id(cursor):
            raise _invalid(cursor="must be a task id")
        found = views.listed(_OPEN, cursor or None, PAGE_VIEWS)
        next_cursor = found[-1].task_id if len(found) == PAGE_VIEWS else None
        open_tasks = tuple(task for view in found if (task := _open_task(view)) is not None)
        page = OpenTaskPage(tasks=open_tasks, next_cursor=next_cursor)
        return Response(page.model_dump_json(), content_type="application/json", headers={"Cache-Control": "no-store"})

    return blueprint


def _open_task(view: TaskView) -> OpenTask | None:
    asked = view.submission
    if view.state.is_final or asked is None or asked.predicted is None:
        return None  # of what only its progress is known, the next event tells the rest
    return OpenTask(
        task_id=view.task_id,
        tenant_id=view.tenant_id,
        model=asked.model,
        state=view.state,
        attempt=view.attempt,
        priority=view.priority or 0,
        gpu_seconds=asked.predicted.gpu_seconds,
        finish_deadline=asked.finish_deadline,
    )


def _invalid(**problems: str) -> InvalidRequestError:
    errors = [FieldError(field=field, message=message) for field, message in problems.items()]
    return InvalidRequestError("; ".join(f"{error.field} {error.message}" for error in errors), *errors)
